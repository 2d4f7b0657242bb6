"""GPUs and hosts as cards show them: figures, who holds the memory, power buttons. Runs in the web process.

A reading is drawn by its owners, not as a percentage: each job's memory, other processes', and what nobody owns.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from controlplane.models import Gpu, Host, Job
from controlplane.pages import gpu_details, tags
from controlplane.pages.power_notes import Note, notes
from controlplane.services import gpu_processes, power_profiles
from controlplane.services.gpu_processes import Ownerless
from controlplane.services.hosts import gpus_of

NEGLIGIBLE_BYTES = 64 << 20
"""What a driver keeps for itself on an idle card is nobody's to explain."""


SLOW_FIGURES = (
    "fault", "unsupported", "pcie_generation", "pcie_width", "ecc_enabled", "ecc_corrected_count",
    "ecc_uncorrected_count", "persistence_mode",
)  # fmt: skip
"""What is shown in words: drawn anew by the server when it changes."""


@dataclass(frozen=True)
class Owner:
    """A part of a memory bar: `start` and `share` in percent of the whole, `mark` the colour's class.

    `bytes` None, and no share of the bar: the driver doesn't tell how much it is.

    `ownerless`: the process, where no live job owns it.
    """

    label: str
    url: str
    bytes: int | None
    start: float
    share: float
    mark: str
    ownerless: Ownerless | None


@dataclass(frozen=True)
class PowerButton:
    """One power profile of one card."""

    name: str
    watts: float | None
    is_set: bool


@dataclass(frozen=True)
class GpuCard:
    """One GPU with everything that its card shows."""

    gpu: Gpu
    host: Host
    reading: dict[str, Any]
    owners: list[Owner]
    buttons: list[PowerButton]
    answer: dict[str, Any]
    role: str

    @property
    def details(self) -> list[gpu_details.Row]:
        """Everything that was read of it."""
        return gpu_details.rows(self.reading)

    @property
    def holders(self) -> str:
        """Who held memory when this was drawn, and what was wrong: the card is drawn anew when that changes."""
        return f"{holders(self.reading)}|{self.reading.get('fault') or ''}"

    @property
    def clamped(self) -> str:
        """That its limit isn't what its profile asks for, since the card's range ends before."""
        return power_profiles.clamped_words(self.gpu)

    @property
    def untold(self) -> str:
        """Why nobody knows who holds its memory; empty where that is told."""
        if fault := self.reading.get("fault"):
            return f"Who holds memory of GPU {self.gpu.index} isn't known: {fault}"
        if "processes" in (self.reading.get("unsupported") or ()):
            return f"GPU {self.gpu.index} doesn't tell which processes hold its memory."
        return ""

    @property
    def notes(self) -> list[Note]:
        """What others did to its limit, and what the thermal guard does."""
        return notes(self.gpu)


def holders(reading: dict[str, Any]) -> str:
    """The processes of a reading, as a text that live.js compares."""
    return " ".join(sorted(f"{item['pid']}:{item['job_id'] or ''}" for item in reading.get("processes") or []))


def signature(reading: dict[str, Any]) -> str:
    """What a host's page says in words: instruments.js has it drawn anew when this changes. Figures move in place."""
    cards = [
        [gpu["uuid"], holders(gpu),
         *(gpu.get(name) for name in SLOW_FIGURES)]
        for gpu in reading.get("gpus", [])
    ]  # fmt: skip
    words = [
        reading.get("gpu_fault"), reading.get("gpu_fault_since") is not None, reading.get("clock_synchronized"),
        *([item[name] for item in reading.get(kind, [])]
          for kind, name in (("disks", "mount"), ("networks", "name"), ("temperatures", "label"))),
    ]  # fmt: skip
    return json.dumps([cards, words], ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Process:
    """A process on a GPU as the table lists it. `ownerless`: where no live job owns it."""

    gpu: Gpu
    pid: int
    user: str | None
    command: str
    figures: "tuple[ProcessFigure, ...]"
    started_at: float | None
    owner: str
    url: str
    ownerless: Ownerless | None


@dataclass(frozen=True)
class ProcessFigure:
    """What a process uses: a field of `GpuProcess`, its value (None: not known just now) and unit."""

    name: str
    label: str
    value: float | None
    unit: str
    is_supported: bool = True

    @property
    def text(self) -> str:
        """As instruments.js writes it."""
        if self.value is None:
            return tags.DASH
        return f"{tags.gib(self.value) if self.name.endswith('_bytes') else tags.count(self.value)} {self.unit}"


def _process_figures(reading: dict[str, Any], item: dict[str, Any]) -> tuple[ProcessFigure, ...]:
    """Without what an agent of an older version doesn't tell."""
    sm = "utilization_sm_percent"
    return (
        ProcessFigure("memory_used_bytes", "GPU memory", item["memory_used_bytes"], "GiB"),
        ProcessFigure(sm, "GPU %", item.get(sm), "%", f"processes.{sm}" not in (reading.get("unsupported") or ())),
        ProcessFigure("cpu_percent", "CPU %", item.get("cpu_percent"), "%"),
        ProcessFigure("rss_bytes", "host memory", item.get("rss_bytes"), "GiB"),
    )


def processes(host: Host, cards: Iterable["GpuCard"]) -> Iterator[Process]:
    """Every process on the host's GPUs, by GPU, the largest first."""
    cards = list(cards)
    titles = _titles(card.reading for card in cards)
    for card in cards:
        held = card.reading.get("processes") or []
        for item in sorted(held, key=lambda item: -(item["memory_used_bytes"] or 0)):
            job_id = item["job_id"]
            _, owner, url = titles.get(job_id, ("", f"job {job_id}", ""))
            yield Process(
                gpu=card.gpu, pid=item["pid"], user=item["user"], command=item["command"],
                figures=_process_figures(card.reading, item), started_at=item["started_at"],
                owner="" if job_id is None else owner, url=url,
                ownerless=gpu_processes.ownerless(host, card.gpu, item) if job_id is None else None,
            )  # fmt: skip


def gpu_cards(hosts: Iterable[Host]) -> list[GpuCard]:
    """The cards of every GPU that the hosts' last readings named."""
    pairs = [(host, gpu) for host in hosts for gpu in gpus_of(host)]
    titles = _titles(gpu.reading for _, gpu in pairs)
    return [_card(host, gpu, titles) for host, gpu in pairs]


def gpu_card(host: Host, gpu: Gpu) -> GpuCard:
    """The card of one GPU."""
    return _card(host, gpu, _titles([gpu.reading]))


def _card(host: Host, gpu: Gpu, titles: dict[int, tuple[str, str, str]]) -> GpuCard:
    """`titles`: those of its jobs, and maybe of others'."""
    reading = gpu.reading
    held = {item["job_id"] for item in reading.get("processes") or []}
    titles = {job_id: title for job_id, title in titles.items() if job_id in held}
    watts = power_profiles.watts_by_profile(gpu)
    buttons = [PowerButton(name, watts[name], gpu.power_profile == name) for name in power_profiles.PROFILES]
    role = "not known" if reading.get("fault") else _role(titles)
    return GpuCard(gpu, host, reading, _owners(host, gpu, titles), buttons, gpu.power_answer or {}, role)


def _titles(readings: Iterable[dict[str, Any]]) -> dict[int, tuple[str, str, str]]:
    """The jobs of the readings' processes, each to (kind, label, address). One query, however many cards there are."""
    found = {}
    job_ids = {item["job_id"] for reading in readings for item in reading.get("processes") or [] if item["job_id"]}
    rows = Job.objects.filter(pk__in=job_ids) if job_ids else Job.objects.none()
    for job in rows.select_related("run", "deployment__model"):
        run = getattr(job, "run", None)
        if run is not None:
            found[job.pk] = (job.kind, f"run {run.pk}", f"/runs/{run.pk}/")
        else:
            deployment = getattr(job, "deployment", None)
            label = deployment.model.name if deployment else f"{job.kind} job {job.pk}"
            found[job.pk] = (job.kind, label, "/queue/")
    return found


def _role(titles: dict[int, tuple[str, str, str]]) -> str:
    kinds = {kind for kind, _, _ in titles.values()}
    words = [word for kind, word in (("train", "training"), ("serve", "serving")) if kind in kinds]
    return " and ".join(words) or ("working" if kinds else "idle")


def _owners(host: Host, gpu: Gpu, titles: dict[int, tuple[str, str, str]]) -> list[Owner]:
    reading = gpu.reading
    total, used = reading.get("memory_total_bytes"), reading.get("memory_used_bytes")
    parts: list[tuple[str, str, int | None, str, Ownerless | None]] = []
    marks = iter(("s1", "s2", "s3", "s1", "s2", "s3"))
    for item in reading.get("processes") or []:
        size = item["memory_used_bytes"]
        if item["job_id"] is None:
            label = f"{item['command'][:40] or 'a process'} (pid {item['pid']})"
            parts.append((label, "", size, "unowned", gpu_processes.ownerless(host, gpu, item)))
        else:
            _, label, url = titles.get(item["job_id"], ("", f"job {item['job_id']}", ""))
            parts.append((label, url, size, next(marks, "other"), None))
    rest = 0 if used is None else used - sum(size or 0 for _, _, size, _, _ in parts)
    if rest > NEGLIGIBLE_BYTES:
        parts.append(("driver and others", "", rest, "other", None))
    owners, start = [], 0.0
    for label, url, size, mark, nobodys in parts:
        share = round(100 * size / total, 2) if size and total else 0.0
        owners.append(Owner(label, url, size, round(start, 2), share, mark, nobodys))
        start += share
    return owners
