"""Why a job waits, host by host, and why it went where it went. Runs in the web process; reads only."""

from dataclasses import dataclass

from controlplane import asks, placement
from controlplane.host_room import FleetRoom, Outlook
from controlplane.kinds.registry import kind_of
from controlplane.models import Attempt, Job
from controlplane.models.jobs import Status
from controlplane.placement import Waits
from controlplane.services import hosts, jobs

READY = "has room: the job starts here when its turn comes"


@dataclass(frozen=True)
class HostAnswer:
    """What one host says to a waiting job. `outlook`: "room", or how soon there may be: busy, fault, closed, unfit."""

    host: str
    outlook: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """Why a job waits (empty where it doesn't), and each host's answer. `placed`: attempt, host, why it went there."""

    reason: str
    hosts: tuple[HostAnswer, ...] = ()
    placed: tuple[tuple[int, str, str], ...] = ()


def explain(job_id: int) -> Explanation:
    """The present state. Raises NotFoundError."""
    job = jobs.get(job_id)
    rows = Attempt.objects.filter(job=job).exclude(placed_because="").select_related("host").order_by("-number")
    placed = tuple((row.number, row.host.name, row.placed_because) for row in rows[:10])
    if job.status != Status.PENDING or kind_of(job).runs_here:
        return Explanation("", placed=placed)
    whole = next(iter(jobs.whole([job_id])), job)
    reason, answers = _answers(whole)
    held = kind_of(whole).waits_for(whole)
    return Explanation(held or reason or job.waiting_reason or "its turn comes at once", answers, placed)


def _answers(job: Job) -> tuple[str, tuple[HostAnswer, ...]]:
    """What would be told of it now, and by whom; hosts that don't answer come last."""
    ask, everybody = asks.of(job), hosts.list_hosts()
    fleet = FleetRoom.of(host for host in everybody if host.is_online and not host.fault)
    found = placement.find(ask, fleet)
    present = []
    for room in fleet.rooms:
        answer = room.find(ask)
        if isinstance(answer, tuple):
            present.append(HostAnswer(room.host.name, "room", READY))
        else:
            present.append(HostAnswer(room.host.name, answer.outlook.name.lower(), answer.reason))
    seen = {room.host.pk for room in fleet.rooms}
    absent = [
        HostAnswer(host.name, Outlook.FAULT.name.lower(), host.fault or "doesn't answer")
        for host in everybody
        if host.pk not in seen
    ]
    return found.reason if isinstance(found, Waits) else "", (*present, *absent)
