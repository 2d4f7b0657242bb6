"""Where a job may run now, or why it has to wait, host by host. Runs in the dispatcher's thread, and for pages.

Of the hosts with room that one is taken which holds most of the job's files already, then the one where it ran before,
then the control plane's own, then the one with least to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from controlplane import asks
from controlplane.asks import Ask
from controlplane.host_room import FleetRoom, HostRoom, NoRoom, Outlook
from controlplane.models import Host, Job

LONGEST_REASON = 250


@dataclass(frozen=True)
class Place:
    """A host with room, and the GPUs (NVML UUIDs) that the job gets there.

    `others`: the further hosts of a job that asks for several. `because`: why there.
    """

    host: Host
    gpus: tuple[str, ...]
    others: tuple[tuple[Host, tuple[str, ...]], ...] = ()
    because: str = field(default="", compare=False)


@dataclass(frozen=True)
class Waits:
    """Why a job has no place now: a sentence, and each host's own reason (None: it has room)."""

    reason: str
    hosts: tuple[tuple[Host, NoRoom | None], ...] = ()


def place(job: Job, candidates: Sequence[Host]) -> Place | str:
    """A place for the job, or the reason why there is none."""
    found = find(asks.of(job), FleetRoom.of(candidates))
    return found.reason if isinstance(found, Waits) else found


def find(ask: Ask, fleet: FleetRoom) -> Place | Waits:
    """A place for such a job in the fleet as it is now, or why there is none."""
    bound = ask.host or ask.last_host
    if bound and all(room.host.name != bound for room in fleet.rooms):
        return Waits(f"waits for {bound}, which does not answer"[:LONGEST_REASON])
    if not fleet.rooms:
        return Waits("waits for a host: none answers")
    found = [(room, room.find(ask)) for room in fleet.rooms]
    roomy = [(room, gpus) for room, gpus in found if not isinstance(gpus, NoRoom)]
    if len(roomy) < ask.hosts:
        told = tuple((room.host, answer if isinstance(answer, NoRoom) else None) for room, answer in found)
        return Waits(_headline(ask, told)[:LONGEST_REASON], told)
    held = {room.host.pk: fleet.holdings.held_bytes(room.host, ask.wanted) for room, _ in roomy}
    roomy.sort(key=lambda pair: _order(pair[0], ask, held[pair[0].host.pk], fleet))
    chosen = [(room.host, gpus) for room, gpus in roomy[: ask.hosts]]
    because = _because(ask, chosen, len(fleet.rooms), len(roomy), held)
    return Place(*chosen[0], others=tuple(chosen[1:]), because=because[:LONGEST_REASON])


def _order(room: HostRoom, ask: Ask, held: int, fleet: FleetRoom) -> tuple[int, bool, bool, int, str]:
    """Less is better."""
    load = sum(max(1, len(taken.gpus)) for taken in room.running)
    return -held, room.host.name != ask.last_host, not fleet.holdings.is_library(room.host), load, room.host.name


def _because(
    ask: Ask, chosen: Sequence[tuple[Host, tuple[str, ...]]], count: int, roomy: int, held: dict[int, int]
) -> str:
    """Why the job goes where it goes."""
    names = ", ".join(host.name for host, _ in chosen)
    if ask.host:
        return f"{names} is the host that was asked for"
    if count == 1:
        return f"{names} is the only host that answers"
    reasons = [f"{roomy} of {count} hosts have room"]
    if ask.labels:
        reasons.append(f"it has the labels {', '.join(ask.labels)}")
    leader = chosen[0][0]
    if all_bytes := held.get(leader.pk):
        reasons.append(f"{all_bytes / 1e9:.1f} GB of its files lie there")
    elif leader.name == ask.last_host:
        reasons.append("it ran there before")
    return f"{names}: {'; '.join(reasons)}"


def _headline(ask: Ask, told: Sequence[tuple[Host, NoRoom | None]]) -> str:
    """The reason that goes away soonest, and how many other hosts there are."""
    if len(told) < ask.hosts:
        return f"asks for {ask.hosts} hosts at once, there are {len(told)}"
    reasons = [answer for _, answer in told if answer is not None]
    soonest = min(reasons, key=lambda answer: answer.outlook)
    if ask.hosts > 1:
        roomy = len(told) - len(reasons)
        return f"asks for {ask.hosts} hosts at once, {roomy} of {len(told)} have room; {soonest.reason}"
    if len(told) == 1 or ask.host:
        return soonest.reason
    if soonest.outlook == Outlook.UNFIT:
        return f"{soonest.reason}, and none of the {len(told)} hosts will do"
    return f"{soonest.reason}; {len(told) - 1} more have no room either"
