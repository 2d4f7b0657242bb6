"""The figures of a large fleet for the page Hosts: a few numbers a GPU, and only what changed. Runs in the web process.

A host's whole reading is for its own page. Of many hosts a browser gets one message a second on the topic `fleet`:
`figures` moves numbers in place, `status` says that something that stands there in words has changed.
"""

from typing import Any

from django.db import transaction

from controlplane.live.announce import publish
from controlplane.models import Gpu, Host

FEW_HOSTS = 4
"""As many are shown card by card, with everything that they tell; more as a map."""

Figures = list[Any]
"""[processor %, [[busy %, °C, memory %], ...]] of one host; None is not known."""


def figures_of(reading: dict[str, Any]) -> Figures:
    """What the map shows of a host's last reading, in whole numbers."""
    cards = sorted(reading.get("gpus") or [], key=lambda gpu: gpu["index"])
    return [_whole(reading.get("cpu_percent")), [gpu_figures(gpu) for gpu in cards]]


def gpu_figures(gpu: dict[str, Any]) -> list[int | None]:
    """[busy %, °C, memory %] of a card."""
    if gpu.get("fault"):
        return [None, None, None]
    used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
    memory = None if used is None or not total else round(100 * used / total)
    return [_whole(gpu.get("utilization_gpu_percent")), _whole(gpu.get("temperature_celsius")), memory]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


class FleetFigures:
    """Remembers what was told last."""

    def __init__(self) -> None:
        self._figures: dict[str, Figures] = {}
        self._words: dict[str, Any] = {}

    def tell(self) -> None:
        """One look at all hosts: tells what has changed since the last one. Nothing where there are few hosts."""
        if Host.objects.count() <= FEW_HOSTS:
            return
        closed = set(Gpu.objects.exclude(state="open").values_list("host__name", "index", "state"))
        figures, words = {}, {}
        for host in Host.objects.only(
            "name", "reading", "last_seen_at", "fault", "state", "role", "group", "labels", "lost_at"
        ):
            figures[host.name] = figures_of(host.reading)
            gpus = len(figures[host.name][1])
            words[host.name] = (host.is_online, bool(host.fault), host.state, host.role, host.group, host.labels, gpus)
        changed = {name: value for name, value in figures.items() if value != self._figures.get(name)}
        is_reworded = self._words != {"hosts": words, "closed": closed}
        if not changed and not is_reworded:
            return
        with transaction.atomic():
            if changed:
                publish("fleet", "figures", {"hosts": changed})
            if is_reworded:
                publish("fleet", "status", {})
        self._figures, self._words = figures, {"hosts": words, "closed": closed}  # only now: else it is told again


_figures = FleetFigures()


def tell() -> None:
    """The duty."""
    _figures.tell()
