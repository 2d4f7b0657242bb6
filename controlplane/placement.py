"""Where a job may run now, or why it has to wait. Runs in the dispatcher's thread."""

from dataclasses import dataclass

from controlplane.kinds.registry import kind_of
from controlplane.models import Host, Job
from controlplane.models.jobs import Status
from controlplane.services import hosts, settings


@dataclass(frozen=True)
class Place:
    """A host with room, and the GPUs (NVML UUIDs) that the job gets there."""

    host: Host
    gpus: tuple[str, ...]


def place(job: Job, candidates: list[Host]) -> Place | str:
    """A place for the job, or the reason why there is none."""
    if job.host is not None and not any(host.pk == job.host_id for host in candidates):
        return f"waits for {job.host.name}, which does not answer"
    if not candidates:
        return "waits for a host: none answers"
    reasons = []
    for host in candidates:
        if job.host_id is not None and job.host_id != host.pk:
            continue
        found = _room(job, host)
        if isinstance(found, Place):
            return found
        reasons.append(found)
    return reasons[0][:250]


def _room(job: Job, host: Host) -> Place | str:
    kind = kind_of(job)
    running = list(Job.objects.filter(status=Status.RUNNING, host=host))
    same_lane = [other for other in running if kind_of(other).lane == kind.lane]
    cards = [gpu.uuid for gpu in hosts.gpus_of(host)]
    wanted = kind.gpus_wanted(job)
    if kind.lane == "train" and cards:
        taken = {uuid for other in same_lane for uuid in other.gpus}
        free = [uuid for uuid in cards if uuid not in taken]
        if wanted > len(cards):
            return f"asks for {wanted} GPUs, {host.name} has {len(cards)}"
        if len(free) < wanted:
            return f"waits for a free GPU on {host.name}"
        return Place(host, tuple(free[:wanted]))
    if kind.lane == "train" and wanted > 1:
        return f"asks for {wanted} GPUs, {host.name} has none"
    limit = {
        "train": settings.get("jobs.max_concurrent_train"),
        "light": settings.get("jobs.max_concurrent_light"),
    }.get(kind.lane)
    if limit is not None and len(same_lane) >= limit:
        ahead = ", ".join(f"{other.kind} {other.pk}" for other in same_lane[:3])
        return f"waits for {ahead} on {host.name}"
    return Place(host, tuple(_emptiest(host)[:wanted]))


def _emptiest(host: Host) -> list[str]:
    """The host's GPUs, the one with most free memory first."""

    def free_bytes(uuid: str) -> int:
        reading = readings[uuid]
        return (reading.get("memory_total_bytes") or 0) - (reading.get("memory_used_bytes") or 0)

    readings = {gpu.uuid: gpu.reading for gpu in hosts.gpus_of(host)}
    return sorted(readings, key=free_bytes, reverse=True)
