"""Draining and maintenance of hosts and single GPUs. Runs in the web process.

What drains takes nothing new and lets what runs there end. Maintenance also pauses its training runs with a checkpoint
and ends its engines, which start elsewhere where there is room; short jobs end by themselves. Open again, the runs that
were paused for it go on. A duty (`look`) does what is due; what it must undo stands in `upkeep_note` before it is done.
"""

import logging
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.errors import FieldFault, InvalidInputError, NotFoundError
from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError, Wish
from controlplane.fleet.registry import carrier
from controlplane.legible import is_legible
from controlplane.live.announce import publish
from controlplane.models import Attempt, Gpu, Host, Job, Member
from controlplane.models.access import Actor, Role
from controlplane.models.hosts import Upkeep
from controlplane.models.jobs import Desired, Kind, Status
from controlplane.services import bell, held_runs, hosts, jobs
from controlplane.services.access import audit
from controlplane.services.power_profiles import label

log = logging.getLogger(__name__)
GUARD = Actor(name="maintenance", role=Role.ADMIN)
MAX_REASON = 200
Kept = Host | Gpu


def words(kept: Kept) -> str:
    """What is the matter, as a sentence goes on: "is draining (by anna: new fans)". Nothing where it is open."""
    if kept.state == Upkeep.OPEN:
        return ""
    note = kept.upkeep_note or {}
    why = ": ".join(part for part in (note.get("by"), note.get("reason")) if part)
    state = "is draining" if kept.state == Upkeep.DRAINING else "is in maintenance"
    return f"{state} (by {why})" if why else state


def set_host(actor: Actor, name: str, state: str, reason: str = "") -> Host:
    """Opens a host, drains it or puts it into maintenance. Raises NotFoundError, InvalidInputError."""
    host = hosts.get(name)
    _set(actor, host, state, reason)
    return hosts.get(name)


def set_gpu(actor: Actor, name: str, index: int, state: str, reason: str = "") -> Gpu:
    """The same for one GPU of a host, by its index."""
    host = hosts.get(name)
    gpu = next((gpu for gpu in host.gpus.all() if gpu.index == index), None)
    if gpu is None:
        raise NotFoundError(f"There is no GPU {index} on {name}.")
    _set(actor, gpu, state, reason)
    return gpu


def _set(actor: Actor, kept: Kept, state: str, reason: str) -> None:
    actor.require(Role.ADMIN)
    if state not in Upkeep.values:
        choice = ", ".join(Upkeep.values)
        raise InvalidInputError(f"There is no state {state!r}: choose {choice}.", (FieldFault("state", choice),))
    reason = reason.strip()
    if len(reason) > MAX_REASON or (reason and not is_legible(reason)):
        message = f"The reason has at most {MAX_REASON} printable characters."
        raise InvalidInputError(message, (FieldFault("reason", message),))
    with transaction.atomic():
        row = type(kept).objects.select_for_update().get(pk=kept.pk)
        paused = (row.upkeep_note or {}).get("paused_jobs", [])
        note: dict[str, Any] | None = None
        if state != Upkeep.OPEN:
            note = {"by": actor.name, "since": timezone.now().isoformat(), "reason": reason, "paused_jobs": paused}
        elif paused:
            note = {"paused_jobs": paused}
        kept.state, kept.upkeep_note = state, note
        type(kept).objects.filter(pk=kept.pk).update(state=state, upkeep_note=note)
        target = label(kept) if isinstance(kept, Gpu) else f"host {kept.name}"
        audit(actor, "upkeep.set", target, before=row.state, after=state, reason=reason)
        publish("hosts", "status", {"host": _host_of(kept).name, "state": state})
        transaction.on_commit(bell.wake)


def still_here(host: Host) -> list[Job]:
    """What runs on a host: a host that drains is empty once there is nothing left."""
    led = Q(host=host) | Q(attempts__members__host=host, attempts__members__ended_at=None, attempts__ended_at=None)
    return list(Job.objects.filter(led, status=Status.RUNNING).select_related("run").distinct().order_by("id"))


# --- What is due ------------------------------------------------------------------------------------------------------


def look() -> None:
    """Pauses what maintenance pauses, ends its engines, and lets go on what may go on again."""
    concerned = Q(state=Upkeep.MAINTENANCE) | Q(upkeep_note__isnull=False)
    rows: list[Kept] = [*Host.objects.filter(concerned), *Gpu.objects.filter(concerned).select_related("host")]
    for kept in rows:
        if kept.state == Upkeep.MAINTENANCE:
            _pause_runs(kept)
            _end_engines(kept)
        elif (kept.upkeep_note or {}).get("paused_jobs"):
            _resume_runs(kept)


def _host_of(kept: Kept) -> Host:
    return kept if isinstance(kept, Host) else kept.host


def _concerns(kept: Kept, host: Host, gpus: list[str]) -> bool:
    return host.pk == _host_of(kept).pk and (isinstance(kept, Host) or kept.uuid in gpus)


def _pause_runs(kept: Kept) -> None:
    """Who was paused by somebody else already isn't ours to resume."""
    host = _host_of(kept)
    running = Job.objects.filter(status=Status.RUNNING, kind=Kind.TRAIN, desired=Desired.RUN)
    found = [job for job in running.filter(host=host).select_related("host") if _concerns(kept, host, job.gpus)]
    parts = Member.objects.filter(host=host, ended_at=None, attempt__ended_at=None, attempt__job__in=running)
    found += [part.attempt.job for part in parts.select_related("attempt__job") if _concerns(kept, host, part.gpus)]
    for job in found:
        with transaction.atomic():  # a pause that nobody remembers would last for ever
            if Job.objects.filter(pk=job.pk, status=Status.RUNNING, desired=Desired.RUN).exists():
                jobs.wish(GUARD, job.pk, Desired.PAUSE)
                _remember(kept, [*_paused(kept), job.pk])


def _resume_runs(kept: Kept) -> None:
    left = held_runs.resume(GUARD, _paused(kept))
    with transaction.atomic():
        _remember(kept, left)


def _paused(kept: Kept) -> list[int]:
    """The runs that are to go on once it is open. Nobody but this duty's thread changes them."""
    note = type(kept).objects.values_list("upkeep_note", flat=True).get(pk=kept.pk) or {}
    return list(note.get("paused_jobs", []))


def _remember(kept: Kept, job_ids: list[int]) -> None:
    """Notes which runs are to be resumed. Inside a transaction."""
    row = type(kept).objects.select_for_update().get(pk=kept.pk)
    gone = row.state == Upkeep.OPEN and not job_ids
    note = None if gone else {**(row.upkeep_note or {}), "paused_jobs": list(dict.fromkeys(job_ids))}
    type(kept).objects.filter(pk=kept.pk).update(upkeep_note=note)


def _end_engines(kept: Kept) -> None:
    """Each is told once per attempt; as after a reboot it waits for a place again, which is elsewhere now."""
    rows = Attempt.objects.filter(
        host=_host_of(kept), launched=True, ended_at=None, wish_sent="", job__kind=Kind.SERVE,
        job__status=Status.RUNNING, job__desired=Desired.RUN,
    )  # fmt: skip
    for attempt in rows.select_related("host"):
        if not _concerns(kept, attempt.host, attempt.gpus):
            continue
        try:
            carrier(attempt.host).signal(attempt.job_id, attempt.number, Wish.PAUSE)
        except (HostUnreachableError, AgentRefusedError) as error:
            log.info("the engine of job %s isn't told of the maintenance yet: %s", attempt.job_id, error)
            continue
        Attempt.objects.filter(pk=attempt.pk).update(wish_sent=Desired.PAUSE)
        audit(GUARD, "upkeep.end_engine", f"job {attempt.job_id}", host=attempt.host.name)
