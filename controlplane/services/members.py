"""The further hosts of runs on several: launched with the first, ended with it. Runs in the dispatcher's threads.

The first host leads: its process alone tells what the run does, and its end is the attempt's. The end of any host's
part without success is the end of all: the others are killed, and the run is tried again as a whole.
"""

import copy
import dataclasses
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any

from django.utils import timezone

from controlplane.fleet.protocol import AgentRefusedError, AttemptNews, ExitRecord, HostUnreachableError, Wish
from controlplane.fleet.registry import carrier
from controlplane.models import Attempt, Host, Member
from controlplane.models.jobs import Status
from controlplane.services import settings
from monitoring.attempt import RANK_DIED
from monitoring.events import EXIT_PAUSED, Error, JobSpec, MalformedEventError, Meeting, decode_event

log = logging.getLogger(__name__)
PORTS = 100
GRACE_SECONDS = 15.0
"""How long the end of the first host's part waits for what the others' have to say."""

FOLLOWED = frozenset({"internal", RANK_DIED})
"""Codes of faults that may be what followed from another host's."""

LOST_ANOTHER = "Another host of the run was lost"
"""How a part begins that ended because another had (`training.distributed.launch`)."""

Fault = dict[str, Any]

_leader_ended: dict[int, float] = {}
"""When the first host's part of an attempt was seen to have ended (monotonic), while the others' haven't."""

_told: set[int] = set()
"""Attempts all of whose parts were told to end."""


def enlist(attempt: Attempt, others: tuple[tuple[Host, tuple[str, ...]], ...]) -> None:
    """Notes the further hosts of an attempt that has just been claimed. Inside a transaction."""
    if not others:
        return
    hosts = [attempt.host, *(host for host, _ in others)]
    Member.objects.bulk_create(
        Member(attempt=attempt, number=number, host=host, gpus=list(gpus))
        for number, (host, gpus) in enumerate(others, start=1)
    )
    attempt.meeting = f"{_address(attempt.host, hosts)}:{_port(attempt)}"
    attempt.save(update_fields=["meeting"])


def _address(host: Host, hosts: list[Host]) -> str:
    """Where the others reach a host: what an admin says, else what its agent does, else its name."""
    if host.address:
        return host.address
    if all(one.carrier == "local" for one in hosts):
        return "127.0.0.1"
    return str(host.facts.get("address") or host.name)


def _port(attempt: Attempt) -> int:
    """A port at which no other run meets on that host, as far as is known here; the next attempt takes another."""
    live = Attempt.objects.filter(host=attempt.host, ended_at=None).exclude(meeting="")
    taken = {int(meeting.rpartition(":")[2]) for meeting in live.values_list("meeting", flat=True)}
    first = int(settings.get("fleet.first_meeting_port"))
    ports = [first + (attempt.pk + step) % PORTS for step in range(PORTS)]
    return next((port for port in ports if port not in taken), ports[0])


def specs(attempt: Attempt, spec: JobSpec) -> Iterator[tuple[Member | None, Host, JobSpec]]:
    """A spec for each host, the first one's (no member) last: it is the one whose launch is the attempt's."""
    if not attempt.meeting:
        yield None, attempt.host, spec
        return
    rows = list(attempt.members.select_related("host"))
    hosts = [attempt.host, *(row.host for row in rows)]

    def meeting(number: int) -> Meeting:
        key = f"job-{attempt.job_id}-attempt-{attempt.number}"
        return Meeting(attempt.meeting, _address(hosts[number], hosts), key, number, len(hosts))

    for row in rows:
        part = dataclasses.replace(spec, host=row.host.name, gpus=tuple(row.gpus), meeting=meeting(row.number))
        yield row, row.host, part
    yield None, attempt.host, dataclasses.replace(spec, meeting=meeting(0))


def as_on(attempt: Attempt, host: Host) -> Attempt:
    """The attempt as one of its hosts has it: what is asked of its files is asked of that host's."""
    if host.pk == attempt.host_id:
        return attempt
    seen = copy.copy(attempt)
    seen.host = host
    return seen


def launched(member: Member | None) -> None:
    """Its host has taken the part; the first one's is the attempt's own."""
    if member is not None:
        Member.objects.filter(pk=member.pk).update(launched=True)


# --- What is heard of them --------------------------------------------------------------------------------------------

Parts = dict[tuple[int, int], Member]


def parts_on(host: Host) -> Parts:
    """The live parts on a host that aren't the first of their attempt, by job and attempt."""
    rows = Member.objects.filter(host=host, launched=True, ended_at=None, attempt__ended_at=None)
    return {
        (row.attempt.job_id, row.attempt.number): row for row in rows.select_related("attempt__host", "attempt__job")
    }


def heard(member: Member, news: AttemptNews) -> None:
    """Takes what a part wrote: of its events its fault alone counts. One that ended badly ends the others."""
    changes: dict[str, Any] = {"offset": news["next_offset"]}
    if fault := _fault_in(news["lines"]):
        changes["error"] = fault
    ended = news["state"] in ("exited", "lost") and news["drained"]
    if ended:
        changes |= {"ended_at": timezone.now(), "exit": news["exit"]}
    Member.objects.filter(pk=member.pk, ended_at=None).update(**changes)
    if ended and not _ended_well(news["exit"]):
        log.warning("%s has ended on %s: the others of the run are ended too", member.attempt, member.host_id)
        end_all(member.attempt)


def _fault_in(lines: str) -> dict[str, Any] | None:
    for line in lines.split("\n"):
        try:
            body = decode_event(line).body if line else None
        except MalformedEventError:
            continue
        if isinstance(body, Error):
            return {"code": body.code, "message": body.message, "fix": body.fix}
    return None


def _ended_well(ended: ExitRecord | None) -> bool:
    return ended is not None and ended["code"] in (0, EXIT_PAUSED)


def held_back(news: AttemptNews) -> AttemptNews:
    """The news of a first part, without its end as long as the other hosts' parts have to end, too."""
    if news["state"] in ("exited", "lost") and _must_wait(news):
        return {**news, "state": "running", "exit": None}
    return news


def _must_wait(news: AttemptNews) -> bool:
    """Whether others haven't ended; where the first has ended badly they are killed."""
    attempt = Attempt.objects.filter(job_id=news["job_id"], number=news["attempt"], ended_at=None).first()
    if attempt is None or not attempt.meeting:
        return False
    since = _leader_ended.setdefault(attempt.pk, time.monotonic())
    is_late = time.monotonic() - since > GRACE_SECONDS
    if is_late or not attempt.members.filter(launched=True, ended_at=None).exists():
        _leader_ended.pop(attempt.pk, None)
        _told.discard(attempt.pk)
        return False
    if not _ended_well(news["exit"]) and attempt.pk not in _told:
        _told.add(attempt.pk)
        end_all(attempt)
    return True


def end_all(attempt: Attempt) -> None:
    """Kills every part of an attempt that may be alive. One whose host is away is killed when it is back."""
    _kill(attempt, attempt.host)
    end_others(attempt)


def end_others(attempt: Attempt) -> None:
    """Kills the parts on the further hosts."""
    for row in attempt.members.filter(launched=True, ended_at=None).select_related("host"):
        _kill(attempt, row.host)


def _kill(attempt: Attempt, host: Host) -> None:
    try:
        carrier(host).signal(attempt.job_id, attempt.number, Wish.CANCEL)
    except (HostUnreachableError, AgentRefusedError) as error:
        log.info("%s isn't ended on %s yet: %s", attempt, host.name, error)


def look() -> None:
    """Ends the runs one of whose further hosts is lost (`Host.lost_at`): they are tried again as a whole."""
    rows = Member.objects.filter(ended_at=None, attempt__ended_at=None, host__lost_at__isnull=False)
    for member in rows.filter(attempt__job__status=Status.RUNNING).select_related("host", "attempt__host"):
        fault = {"code": RANK_DIED, "message": f"{member.host.name}, one of the run's hosts, is lost.",
                 "fix": "The run goes on from its last checkpoint, on hosts that answer."}  # fmt: skip
        Member.objects.filter(pk=member.pk).update(ended_at=timezone.now(), error=fault)
        end_all(member.attempt)


def fault_of(attempt: Attempt, told: Fault | None) -> Fault | None:
    """Why a run on several hosts has ended: what its first one told, unless another's fault came before it."""
    if not attempt.meeting or (told is not None and told["code"] not in FOLLOWED):
        return told
    rows = attempt.members.select_related("host").exclude(ended_at=None)
    faults = [fault for row in rows if (fault := _own_fault(row)) is not None]
    understood = [fault for fault in faults if fault["code"] not in FOLLOWED]
    return next(iter([*understood, *faults]), told)


def _own_fault(row: Member) -> Fault | None:
    """What was wrong on that host, where it isn't only what came of another's fault."""
    error: Fault | None = row.error
    if error is not None and not error["message"].startswith(LOST_ANOTHER):
        return {**error, "message": f"On {row.host.name}: {error['message']}"}
    if error is None and row.exit and row.exit["signal"]:
        name = signal.Signals(row.exit["signal"]).name
        message = f"The run's part on {row.host.name} was ended by {name}."
        return {
            "code": RANK_DIED,
            "message": message,
            "fix": "Read its log there; the run goes on from its last checkpoint.",
        }
    return None
