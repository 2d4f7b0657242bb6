"""The map of a large fleet: a tile a host, a cell a GPU, shaded by one figure. Runs in the web process."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from controlplane.models.hosts import HostRole, Upkeep
from controlplane.services import fleet_figures, fleet_view
from controlplane.services.fleet_view import FleetHost
from controlplane.services.hosts import gpus_of

HEATS = {"busy": ("Busy", "%", 0), "heat": ("Temperature", "°C", 1), "memory": ("Memory", "%", 2)}
"""By the word of the address: title, unit, and place in `fleet_figures.gpu_figures`."""

RANGES = {"busy": (0, 100), "heat": (30, 90), "memory": (0, 100)}
SHADES = 9


@dataclass(frozen=True)
class Cell:
    """One GPU: its figure, its shade (0 to SHADES), and why it takes nothing, where that is so."""

    index: int
    figures: list[int | None]
    value: int | None
    shade: int
    note: str

    @property
    def words(self) -> str:
        """What the cell says when it is pointed at."""
        busy, heat, memory = ("–" if figure is None else figure for figure in self.figures)
        return f"GPU {self.index}: {busy} % busy, {heat} °C, {memory} % of its memory" + self.note


@dataclass(frozen=True)
class Tile:
    """One host."""

    row: FleetHost
    cells: list[Cell]
    figures: list[Any]

    @property
    def mark(self) -> str:
        """The class of its dot."""
        host = self.row.host
        if not host.is_online:
            return "bad"
        if self.row.fault or host.state != Upkeep.OPEN:
            return "warn"
        return "run" if self.row.running else "idle"

    @property
    def word(self) -> str:
        """Its state in a word."""
        host = self.row.host
        if not host.is_online:
            return "offline"
        if host.state != Upkeep.OPEN:
            return str(host.state)
        if self.row.fault:
            return "fault"
        return f"{self.row.running} job{'' if self.row.running == 1 else 's'}" if self.row.running else "idle"


def shade(value: int | None, heat: str) -> int:
    """How dark a cell is: 0 for nothing and for what isn't known. fleet.js reckons the same."""
    if value is None:
        return 0
    low, high = RANGES[heat]
    return max(0, min(SHADES, round(SHADES * (value - low) / (high - low))))


def context(request: HttpRequest) -> dict[str, Any]:
    """What the template shows."""
    asked = {name: request.GET.get(name, "")[:200] for name in ("q", "state", "role", "label", "group")}
    heat = request.GET.get("heat", "busy")
    heat = heat if heat in HEATS else "busy"
    view = fleet_view.view(asked)
    groups = [
        {"name": group.name, "gpus": group.gpus, "tiles": [_tile(row, heat) for row in group.hosts]}
        for group in view.groups
    ]
    title, unit, place = HEATS[heat]
    return {
        "view": view, "groups": groups, "asked": asked, "heat": heat, "heat_title": title, "heat_unit": unit,
        "heat_place": place, "heat_low": RANGES[heat][0], "heat_high": RANGES[heat][1], "shades": range(SHADES + 1),
        "heats": [(word, words[0], _with(request, heat=word)) for word, words in HEATS.items()],
        "states": [(word, words, view.counts[word]) for word, words in fleet_view.STATES.items()],
        "roles": HostRole.choices, "is_filtered": any(asked.values()), "fragment": request.get_full_path(),
    }  # fmt: skip


def _with(request: HttpRequest, **changes: str) -> str:
    query = request.GET.copy()
    for name, value in changes.items():
        query[name] = value
    return f"{reverse('hosts')}?{query.urlencode()}"


def _tile(row: FleetHost, heat: str) -> Tile:
    figures = fleet_figures.figures_of(row.host.reading)
    closed = {gpu.index: gpu.state for gpu in gpus_of(row.host) if gpu.state != Upkeep.OPEN}
    place = HEATS[heat][2]
    indices = sorted(gpu["index"] for gpu in row.host.reading.get("gpus") or ())
    cells = [
        Cell(index, card, card[place], shade(card[place], heat), f", {closed[index]}" if index in closed else "")
        for index, card in zip(indices, figures[1], strict=True)
    ]
    return Tile(row, cells, figures)
