"""Where a job may run now, or why it has to wait. Runs in the dispatcher's thread.

A GPU takes as many training runs at once as the profile in force on it allows (`power.PROFILE_max_concurrent_jobs`), a
run on several GPUs counts on each of them. A card that is too hot or can't be read gets no job at all, one that another
program fills (`gpu_room`) no training run. A host without a GPU takes `jobs.max_concurrent_train` runs; one whose
driver is silent isn't taken for such a host.
"""

from dataclasses import dataclass

from controlplane import gpu_room
from controlplane.kinds.registry import kind_of
from controlplane.models import Gpu, Host, Job
from controlplane.models.jobs import Status
from controlplane.services import hosts, power_profiles, settings, thermal


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
    cards, wanted = hosts.gpus_of(host), kind.gpus_wanted(job)
    if wanted and (fault := hosts.missing_gpus(host)):
        return f"waits for the GPUs of {host.name}: {fault}"
    if kind.lane == "train" and cards:
        return _room_on_gpus(job, host, cards, same_lane, wanted)
    if kind.lane == "train" and wanted > 1 and not kind.may_share_processor(job):
        return f"asks for {wanted} GPUs, {host.name} has none"
    limit = {
        "train": settings.get("jobs.max_concurrent_train"),
        "light": settings.get("jobs.max_concurrent_light"),
    }.get(kind.lane)
    if limit is not None and len(same_lane) >= limit:
        ahead = ", ".join(f"{other.kind} {other.pk}" for other in same_lane[:3])
        return f"waits for {ahead} on {host.name}"
    sound = [gpu for gpu in cards if not _fault(gpu)]
    cool = [gpu for gpu in sound if not _is_hot(gpu)]
    if wanted and cards and not cool:
        return thermal.hold_reason(sound[0]) if sound else _why_lost(cards[0])
    return Place(host, tuple(_emptiest(cool)[:wanted]))


def _room_on_gpus(job: Job, host: Host, cards: list[Gpu], running: list[Job], wanted: int) -> Place | str:
    """GPUs for a training run: those with room, the ones with fewest runs first."""
    if wanted > len(cards):
        return f"asks for {wanted} GPUs, {host.name} has {len(cards)}"
    sound, lost = [gpu for gpu in cards if not _fault(gpu)], [gpu for gpu in cards if _fault(gpu)]
    if wanted > len(sound):
        return _why_lost(lost[0])
    limits = power_profiles.concurrent_limits()
    runs = {gpu.uuid: sum(gpu.uuid in other.gpus for other in running) for gpu in sound}
    roomy = [gpu for gpu in sound if runs[gpu.uuid] < limits[_profile(gpu)]]
    needed = gpu_room.needed_bytes(job, wanted)
    taken = {gpu.uuid: reason for gpu in roomy if (reason := gpu_room.why_taken(gpu, needed))}
    free = sorted((gpu for gpu in roomy if not _is_hot(gpu) and gpu.uuid not in taken), key=lambda gpu: runs[gpu.uuid])
    if len(free) >= wanted:
        return Place(host, tuple(gpu.uuid for gpu in free[:wanted]))
    if len(roomy) >= wanted:
        hot = [gpu for gpu in roomy if _is_hot(gpu)]
        return thermal.hold_reason(hot[0]) if hot else next(iter(taken.values()))
    return _why_full(host, [gpu for gpu in sound if gpu not in roomy], limits)


def _why_full(host: Host, full: list[Gpu], limits: dict[str, int]) -> str:
    closed = [gpu for gpu in full if limits[_profile(gpu)] == 0]
    if closed:
        profile = _profile(closed[0])
        return (
            f"waits while {power_profiles.label(closed[0])} is set to {profile}: no run starts then "
            f"(power.{profile}_max_concurrent_jobs is 0)"
        )
    takes = ", ".join(f"GPU {gpu.index} ({_profile(gpu)}) takes {limits[_profile(gpu)]}" for gpu in full[:4])
    return f"waits for a free GPU on {host.name}: {takes} at a time"


def _profile(gpu: Gpu) -> str:
    return gpu.power_profile or power_profiles.UNWISHED


def _is_hot(gpu: Gpu) -> bool:
    return gpu.heat_level >= thermal.HOLD


def _fault(gpu: Gpu) -> str:
    """Why the card can't be read, or nothing: lost, or its driver hangs. A job on it would fail, or hang as well."""
    return gpu.reading.get("fault") or ""


def _why_lost(gpu: Gpu) -> str:
    return f"waits for {power_profiles.label(gpu)}: {_fault(gpu)}"


def _emptiest(cards: list[Gpu]) -> list[str]:
    """The GPUs, the one with most free memory first; those that don't tell come last."""

    def free_bytes(gpu: Gpu) -> int:
        free = gpu_room.free_bytes(gpu)
        return -1 if free is None else free

    return [gpu.uuid for gpu in sorted(cards, key=free_bytes, reverse=True)]
