"""GPUs and hosts as cards show them: figures, who holds the memory, power buttons. Runs in the web process.

A reading is drawn by its owners, not as a percentage: each job's memory, other processes', and what nobody owns.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.models import Gpu, Host, Job
from controlplane.models.deployments import Deployment
from controlplane.services import power

NEGLIGIBLE_BYTES = 64 << 20
"""What a driver keeps for itself on an idle card is nobody's to explain."""


@dataclass(frozen=True)
class Owner:
    """A part of a memory bar: `start` and `share` in percent of the whole, `mark` the colour's class."""

    label: str
    url: str
    bytes: int
    start: float
    share: float
    mark: str


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
    def holders(self) -> str:
        """Who held memory when this was drawn: the card is drawn anew when that changes."""
        return holders(self.reading)


def holders(reading: dict[str, Any]) -> str:
    """The processes of a reading, as a text that live.js compares."""
    return " ".join(sorted(f"{item['pid']}:{item['job_id'] or ''}" for item in reading.get("processes") or []))


def gpu_cards(hosts: Iterable[Host]) -> list[GpuCard]:
    """The cards of every GPU that the hosts' last readings named."""
    cards = []
    for host in hosts:
        seen = {item["uuid"] for item in host.reading.get("gpus", [])}
        cards += [gpu_card(host, gpu) for gpu in host.gpus.all() if gpu.uuid in seen]
    return cards


def gpu_card(host: Host, gpu: Gpu) -> GpuCard:
    """The card of one GPU."""
    reading = gpu.reading
    titles = _titles(item["job_id"] for item in reading.get("processes") or [] if item["job_id"])
    watts = power.profiles(gpu)
    buttons = [PowerButton(name, watts[name], gpu.power_profile == name) for name in power.PROFILES]
    return GpuCard(gpu, host, reading, _owners(reading, titles), buttons, gpu.power_answer or {}, _role(titles))


def _titles(job_ids: Iterable[int]) -> dict[int, tuple[str, str, str]]:
    """Job to (kind, label, address)."""
    found = {}
    for job in Job.objects.filter(pk__in=set(job_ids)).select_related("run"):
        run = getattr(job, "run", None)
        if run is not None:
            found[job.pk] = (job.kind, f"run {run.pk}", f"/runs/{run.pk}/")
        else:
            deployment = Deployment.objects.filter(job=job).select_related("model").first()
            label = deployment.model.name if deployment else f"{job.kind} job {job.pk}"
            found[job.pk] = (job.kind, label, "/queue/")
    return found


def _role(titles: dict[int, tuple[str, str, str]]) -> str:
    kinds = {kind for kind, _, _ in titles.values()}
    words = [word for kind, word in (("train", "training"), ("serve", "serving")) if kind in kinds]
    return " and ".join(words) or ("working" if kinds else "idle")


def _owners(reading: dict[str, Any], titles: dict[int, tuple[str, str, str]]) -> list[Owner]:
    total, used = reading.get("memory_total_bytes"), reading.get("memory_used_bytes")
    if not total:
        return []
    parts: list[tuple[str, str, int, str]] = []
    marks = iter(("s1", "s2", "s3", "s1", "s2", "s3"))
    for item in reading.get("processes") or []:
        size = item["memory_used_bytes"] or 0
        _, label, url = titles.get(item["job_id"], ("", f"{item['command'][:40]} (pid {item['pid']})", ""))
        parts.append((label, url, size, next(marks, "other") if item["job_id"] in titles else "unowned"))
    rest = (used or 0) - sum(size for _, _, size, _ in parts)
    if rest > NEGLIGIBLE_BYTES:
        parts.append(("driver and others", "", rest, "other"))
    owners, start = [], 0.0
    for label, url, size, mark in parts:
        share = round(100 * size / total, 2)
        owners.append(Owner(label, url, size, round(start, 2), share, mark))
        start += share
    return owners
