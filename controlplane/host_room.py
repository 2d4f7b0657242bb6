"""How much room each host has: one picture of the fleet for a whole round of placing. Runs in the dispatcher's thread.

A GPU takes as many training runs at once as the profile in force on it allows (`power.PROFILE_max_concurrent_jobs`), a
run on several GPUs counts on each of them. A card that is too hot or can't be read gets no job at all, one that another
program fills (`gpu_room`) no training run. A host without a GPU takes `jobs.max_concurrent_train` runs; one whose
driver is silent isn't taken for such a host. A host or a card that drains or is in maintenance takes nothing new.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from controlplane import gpu_room
from controlplane.asks import Ask
from controlplane.kinds.registry import KINDS
from controlplane.models import Gpu, Host, Job, Member
from controlplane.models.hosts import HostRole, Upkeep
from controlplane.models.jobs import Status
from controlplane.services import artefacts, hosts, power_profiles, settings, thermal, upkeep
from controlplane.services.locality import Holdings


class Outlook(IntEnum):
    """How soon a host that has no room now may have some: what is told first of several reasons."""

    BUSY = 0
    FAULT = 1
    CLOSED = 2
    UNFIT = 3


@dataclass(frozen=True)
class NoRoom:
    """Why a host doesn't take a job now."""

    reason: str
    outlook: Outlook = Outlook.BUSY


@dataclass(frozen=True)
class Taken:
    """A running job's share of one host."""

    job_id: int
    kind: str
    lane: str
    gpus: frozenset[str]


@dataclass(frozen=True)
class Rules:
    """The settings that decide, read once."""

    most: dict[str, int]
    """Jobs of a lane on one host without GPUs; lanes that aren't named have no limit."""

    per_gpu: dict[str, int]
    """Runs on one GPU, by power profile."""

    @classmethod
    def read(cls) -> Self:
        """As they are in force."""
        return cls(
            {"train": settings.get("jobs.max_concurrent_train"), "light": settings.get("jobs.max_concurrent_light")},
            power_profiles.concurrent_limits(),
        )


@dataclass
class HostRoom:
    """One host, its cards, and what runs there. `take` keeps it true while a round goes on."""

    host: Host
    rules: Rules
    running: list[Taken] = field(default_factory=list)
    cards: list[Gpu] = field(init=False)

    def __post_init__(self) -> None:
        """Reads what needn't be asked for each job."""
        self.cards = hosts.gpus_of(self.host)
        self.missing = hosts.missing_gpus(self.host)

    def take(self, job: Job, gpus: Iterable[str]) -> None:
        """A job has just been given room here."""
        self.running.append(Taken(job.pk, job.kind, KINDS[job.kind].lane, frozenset(gpus)))

    def find(self, ask: Ask) -> tuple[str, ...] | NoRoom:
        """The GPUs (NVML UUIDs) that such a job gets here now, or why it doesn't."""
        if closed := self._closed_to(ask):
            return closed
        if ask.lane == "train" and self.cards:
            return self._find_for_run(ask)
        same = [other for other in self.running if other.lane == ask.lane]
        if (most := self.rules.most.get(ask.lane)) is not None and len(same) >= most:
            ahead = ", ".join(f"{other.kind} {other.job_id}" for other in same[:3])
            return NoRoom(f"waits for {ahead} on {self.host.name}")
        return self._emptiest(ask)

    def _closed_to(self, ask: Ask) -> NoRoom | None:
        """Why the host won't do for such a job, however little runs there."""
        host = self.host
        if unfit := _unfit(host, ask):
            return NoRoom(unfit, Outlook.UNFIT)
        if host.state != Upkeep.OPEN:
            return NoRoom(f"waits for {host.name}, which {upkeep.words(host)}", Outlook.CLOSED)
        if ask.gpus and self.missing:
            return NoRoom(f"waits for the GPUs of {host.name}: {self.missing}", Outlook.FAULT)
        if ask.lane == "train" and not self.cards and ask.gpus > 1 and not ask.shares_processor:
            return NoRoom(f"asks for {ask.gpus} GPUs, {host.name} has none", Outlook.UNFIT)
        return None

    def _emptiest(self, ask: Ask) -> tuple[str, ...] | NoRoom:
        """For what isn't a run: the cards with most free memory; those that don't tell come last."""
        if not ask.gpus or not self.cards:
            return ()
        if isinstance(cards := self._open(1), NoRoom):
            return cards
        cool = [gpu for gpu in cards if not _is_hot(gpu)]
        if not cool:
            return NoRoom(thermal.hold_reason(cards[0]))
        return tuple(gpu.uuid for gpu in sorted(cool, key=_free_bytes, reverse=True)[: ask.gpus])

    def _find_for_run(self, ask: Ask) -> tuple[str, ...] | NoRoom:
        """Cards for a training run: those with fewest runs first, then those with most free memory."""
        wanted, host = ask.gpus, self.host
        if wanted > len(self.cards):
            return NoRoom(f"asks for {wanted} GPUs, {host.name} has {len(self.cards)}", Outlook.UNFIT)
        if isinstance(cards := self._open(wanted), NoRoom):
            return cards
        runs = {gpu.uuid: sum(o.lane == "train" and gpu.uuid in o.gpus for o in self.running) for gpu in cards}
        roomy = [gpu for gpu in cards if runs[gpu.uuid] < self.rules.per_gpu[_profile(gpu)]]
        if len(roomy) < wanted:
            return NoRoom(_why_full(host, [gpu for gpu in cards if gpu not in roomy], self.rules.per_gpu))
        taken = {gpu.uuid: reason for gpu in roomy if (reason := gpu_room.why_taken(gpu, ask.needed_bytes))}
        free = [gpu for gpu in roomy if not _is_hot(gpu) and gpu.uuid not in taken]
        if len(free) >= wanted:
            order = sorted(free, key=lambda gpu: (runs[gpu.uuid], -_free_bytes(gpu)))
            return tuple(gpu.uuid for gpu in order[:wanted])
        hot = [gpu for gpu in roomy if _is_hot(gpu)]
        return NoRoom(thermal.hold_reason(hot[0]) if hot else next(iter(taken.values())))

    def _open(self, wanted: int) -> list[Gpu] | NoRoom:
        """The cards that can be read and take work; why not where fewer than `wanted` do."""
        sound = [gpu for gpu in self.cards if not _fault(gpu)]
        if len(sound) < wanted:
            lost = next(gpu for gpu in self.cards if _fault(gpu))
            return NoRoom(f"waits for {power_profiles.label(lost)}: {_fault(lost)}", Outlook.FAULT)
        cards = [gpu for gpu in sound if gpu.state == Upkeep.OPEN]
        if len(cards) < wanted:
            shut = next(gpu for gpu in sound if gpu.state != Upkeep.OPEN)
            return NoRoom(f"waits for {power_profiles.label(shut)}, which {upkeep.words(shut)}", Outlook.CLOSED)
        return cards


@dataclass(frozen=True)
class FleetRoom:
    """All hosts that answer, and what they hold."""

    rooms: tuple[HostRoom, ...]
    holdings: Holdings

    @classmethod
    def of(cls, candidates: Iterable[Host]) -> Self:
        """The picture of these hosts now: two questions, however many hosts and jobs there are."""
        rules = Rules.read()
        rooms = {host.pk: HostRoom(host, rules) for host in candidates}
        for job in Job.objects.filter(status=Status.RUNNING, host__in=rooms).only("id", "kind", "host_id", "gpus"):
            if job.host_id is not None:
                rooms[job.host_id].take(job, job.gpus)
        others = Member.objects.filter(ended_at=None, attempt__ended_at=None, host__in=rooms)
        for member in others.select_related("attempt__job"):
            rooms[member.host_id].take(member.attempt.job, member.gpus)
        return cls(tuple(rooms.values()), Holdings.read())

    @classmethod
    def now(cls) -> Self:
        """The picture of every host that answers."""
        return cls.of(host for host in hosts.list_hosts() if host.is_online and not host.fault)


def _unfit(host: Host, ask: Ask) -> str:
    """Why a host will never do for such a job, or nothing."""
    if ask.host and ask.host != host.name:
        return f"is to run on {ask.host}"
    if ask.in_library and artefacts.is_apart(host):
        return f"is done where the library lies, and {host.name} has a home of its own"
    if lacking := [label for label in ask.labels if label not in host.labels]:
        return f"asks for the label {lacking[0]}, which {host.name} doesn't have"
    if host.role != HostRole.BOTH and ask.lane in HostRole.values and ask.lane != host.role:
        only = "serves models" if host.role == HostRole.SERVE else "trains"
        return f"waits for another host than {host.name}, which only {only}"
    return ""


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


def _free_bytes(gpu: Gpu) -> int:
    free = gpu_room.free_bytes(gpu)
    return -1 if free is None else free
