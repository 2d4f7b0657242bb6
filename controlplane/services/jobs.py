"""Jobs: made, wished at, and moved from status to status in one place. Runs in the web process, any thread."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Count
from django.dispatch import Signal
from django.utils import timezone

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Host, Job
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import ENDED, LEGAL, Desired, Kind, Priority, Status
from controlplane.moments import iso
from controlplane.services import bell, settings
from controlplane.services.access import audit

never_ran = Signal()
"""Sent inside the transaction that cancels a job which no process works on: its kind tells its noun (`job`)."""

moved = Signal()
"""Sent inside the transaction that changes a job's status (`job`, `before`: the status that it had)."""

retried = Signal()
"""Sent inside the transaction that puts an ended job back into the queue (`job`)."""

SAVES_WHEN_STOPPED = frozenset({Kind.TRAIN, Kind.SERVE})
"""Kinds whose process ends properly when told to stop; the others have nothing to save and are cancelled."""


def create(
    actor: Actor,
    kind: str,
    title: str,
    config: dict[str, Any],
    *,
    priority: int = Priority.NORMAL,
    host: Host | None = None,
) -> Job:
    """Puts a job into the queue. With `host` it runs there and nowhere else."""
    actor.require(Role.USE)
    with transaction.atomic():
        job = Job.objects.create(
            kind=kind, title=title[:250], config=config, priority=priority, host=host, created_by=actor.name,
            is_pinned=host is not None, max_failures=settings.get("jobs.max_failures"),
        )  # fmt: skip
        audit(actor, "job.create", f"job {job.pk}", kind=kind, title=title[:250])
        announce(job)
        transaction.on_commit(bell.wake)
    return job


def get(job_id: int) -> Job:
    """The job. Raises NotFoundError."""
    job = Job.objects.filter(pk=job_id).select_related("host").first()
    if job is None:
        raise NotFoundError(f"There is no job {job_id}.")
    return job


def list_jobs(kind: str | None = None, status: str | None = None, limit: int = 100) -> list[Job]:
    """Jobs, newest first. Raises InvalidInputError for a kind or status that doesn't exist."""
    rows = Job.objects.select_related("host", "run").order_by("-id")
    if kind:
        if kind not in Kind.values:
            raise InvalidInputError(f"There is no kind {kind!r}. There are: {', '.join(Kind.values)}.")
        rows = rows.filter(kind=kind)
    if status:
        if status not in Status.values:
            raise InvalidInputError(f"There is no status {status!r}. There are: {', '.join(Status.values)}.")
        rows = rows.filter(status=status)
    return list(rows[: max(1, min(limit, 1000))])


IN_ORDER = ("-priority", "position", "id")
"""The order in which jobs start."""

WITH_RUN = ("host", "run__model__base", "run__dataset", "run__chain__base", "run__chain__current")


def ended(most: int) -> list[Job]:
    """The jobs that have ended lately, the last one first."""
    rows = Job.objects.filter(ended_at__isnull=False).select_related("host", "run")
    return list(rows.order_by("-ended_at", "-id")[:most])


def count_waiting() -> int:
    """How many jobs wait."""
    return Job.objects.filter(status=Status.PENDING).count()


def queue(kinds: Collection[str] = (), most: int | None = None) -> list[Job]:
    """Pending jobs, of some kinds or of all, in the order in which they start; at most `most` of them."""
    rows = Job.objects.filter(status=Status.PENDING).select_related(*WITH_RUN)
    return list((rows.filter(kind__in=kinds) if kinds else rows).order_by(*IN_ORDER)[:most])


class Waiting(NamedTuple):
    """A pending job, as much of it as each round of placing reads of all of them."""

    pk: int
    kind: str
    created_at: datetime
    attempt_count: int
    not_before: datetime | None
    waiting_reason: str


def waiting() -> list[Waiting]:
    """The whole queue in the order in which it starts, cheaply: it may have ten thousand rows."""
    rows = Job.objects.filter(status=Status.PENDING).order_by(*IN_ORDER)
    return [Waiting(*row) for row in rows.values_list(*Waiting._fields)]


def whole(job_ids: Iterable[int]) -> list[Job]:
    """Those of these jobs that wait still, each with its run and what that is made of."""
    return list(Job.objects.filter(pk__in=list(job_ids), status=Status.PENDING).select_related(*WITH_RUN))


def transition(job_id: int, to: str, *, reason: str, actor: Actor = SYSTEM, **fields: Any) -> Job:
    """The only function that changes a job's status: compare-and-set, audit line, announcement after the commit.

    `fields` are further columns that change with it. Raises ConflictError when the change isn't legal from the status
    that the job has now; nothing is changed then.
    """
    sources = [status for status, targets in LEGAL.items() if to in targets]
    now = timezone.now()
    if to in ENDED:
        fields.setdefault("ended_at", now)
        fields.setdefault("phase", "")
    if to == Status.RUNNING:
        fields.setdefault("started_at", now)
    if to in (Status.PENDING, Status.PAUSED):
        fields.setdefault("phase", "")
        fields.setdefault("ended_at", None)
    with transaction.atomic():
        before = get(job_id)
        changed = Job.objects.filter(pk=job_id, status=before.status, status__in=sources).update(status=to, **fields)
        if not changed:
            raise ConflictError(f"Job {job_id} is {before.status}: it can't become {to}.")
        job = get(job_id)
        audit(actor, "job.status", f"job {job_id}", before=before.status, after=to, reason=reason)
        announce(job)
        moved.send(sender=Job, job=job, before=before.status)
        transaction.on_commit(bell.wake)
    return job


def facts(job: Job, reader: Actor | None = None) -> dict[str, Any]:
    """A job as the API and the live topics tell it. What a generation wrote is for its owner and admins alone."""
    run = getattr(job, "run", None)
    result = job.result
    if job.kind == Kind.GENERATE and result and not (reader and _may_read(reader, job)):
        result = {name: value for name, value in result.items() if name != "text"}
    return {
        "id": job.pk, "job_id": job.pk, "type": job.kind, "kind": job.kind, "title": job.title, "status": job.status,
        "desired": job.desired, "phase": job.phase, "priority": Priority(job.priority).name.lower(),
        "progress": job.progress, "result": result, "error": job.error, "waiting_reason": job.waiting_reason,
        "run_id": run.pk if run else None, "host": job.host.name if job.host else None,
        "attempts": job.attempt_count, "created_by": job.created_by,
        "created_at": job.created_at.isoformat(), "started_at": iso(job.started_at), "ended_at": iso(job.ended_at),
    }  # fmt: skip


def _may_read(reader: Actor, job: Job) -> bool:
    """Whether a generation's text is for this reader: an admin, or who asked. Keys go by id: names may be alike."""
    asked_by = job.config.get("key_id")
    is_own = reader.key_id == asked_by and (asked_by is not None or reader.name == job.created_by)
    return reader.role >= Role.ADMIN or (reader.role >= Role.USE and is_own)


def announce(job: Job) -> None:
    """Tells the queue's topic, and the run's where it is one, what the job is now. Inside a transaction."""
    data = facts(job)
    publish("jobs", "status", data)
    if data["run_id"]:
        publish(f"run:{data['run_id']}", "status", data)


def set_phase(job_id: int, phase: str) -> None:
    """Shows a phase; decides nothing. Inside a transaction."""
    if Job.objects.filter(pk=job_id).exclude(phase=phase).update(phase=phase):
        announce(get(job_id))


def set_waiting_reason(job_id: int, reason: str) -> None:
    """Says why a pending job doesn't start."""
    with transaction.atomic():
        changed = Job.objects.filter(pk=job_id, status=Status.PENDING).exclude(waiting_reason=reason)
        if changed.update(waiting_reason=reason):
            announce(get(job_id))


TOLD_ONE_BY_ONE = 20


def tell_waiting(job_ids: Sequence[int], reason: str) -> None:
    """Says of many pending jobs why they don't start; pages read a long list anew instead of each one's message."""
    if len(job_ids) <= TOLD_ONE_BY_ONE:
        for job_id in job_ids:
            set_waiting_reason(job_id, reason)
        return
    with transaction.atomic():
        for start in range(0, len(job_ids), 500):
            part = job_ids[start : start + 500]
            Job.objects.filter(pk__in=part, status=Status.PENDING).update(waiting_reason=reason)
        publish("jobs", "reset", {})


def wish(actor: Actor, job_id: int, desired: str) -> Job:
    """Stores what the owner wants; the dispatcher carries it out when the host can be reached.

    A job that hasn't started is paused or cancelled here. Raises ConflictError when it has ended.
    """
    with transaction.atomic():
        return _wish(actor, _locked(job_id), desired)


def _locked(job_id: int) -> Job:
    """The job as it is now; nobody else changes it until the transaction ends (SQLite sees to that by itself)."""
    Job.objects.select_for_update().filter(pk=job_id).first()
    return get(job_id)


def _wish(actor: Actor, job: Job, desired: str) -> Job:
    job_id = job.pk
    actor.require_owner(f"Job {job.pk}", job.created_by)
    if desired == Desired.STOP and job.kind not in SAVES_WHEN_STOPPED:
        desired = Desired.CANCEL
    if desired == Desired.PAUSE and job.kind != Kind.TRAIN:
        raise ConflictError(
            f"Job {job_id} is of kind {job.kind}: only a training run can be paused. Cancel it instead."
        )
    if job.has_ended:
        raise ConflictError(f"Job {job_id} has ended ({job.status}): there is nothing left to {desired}.")
    if job.status == Status.PENDING and desired == Desired.PAUSE:
        raise ConflictError(f"Job {job_id} hasn't started: cancel it, or lower its priority.")
    Job.objects.filter(pk=job_id).update(desired=desired)
    audit(actor, f"job.{desired}", f"job {job_id}")
    if desired in (Desired.CANCEL, Desired.STOP) and (
        job.status in (Status.PENDING, Status.PAUSED) or job.kind == Kind.EXTERNAL
    ):
        job = transition(job_id, Status.CANCELLED, reason=f"{desired} while no process ran", actor=actor)
        never_ran.send(sender=Job, job=job)
        return job
    job = get(job_id)
    announce(job)
    transaction.on_commit(bell.wake)
    return job


def cancel(actor: Actor, job_id: int) -> Job:
    """Ends a job now."""
    return wish(actor, job_id, Desired.CANCEL)


def resume(actor: Actor, job_id: int) -> Job:
    """Lets a paused job go on; a pause that wasn't carried out yet is taken back."""
    job = get(job_id)
    actor.require_owner(f"Job {job.pk}", job.created_by)
    if job.status == Status.RUNNING and job.desired == Desired.PAUSE:
        raise ConflictError(f"Job {job_id} is still writing its checkpoint. Resume it when it is paused.")
    if job.status != Status.PAUSED:
        raise ConflictError(f"Job {job_id} is {job.status}: only a paused job can be resumed.")
    return transition(job_id, Status.PENDING, reason="resumed", actor=actor, desired=Desired.RUN, error=None,
                      not_before=None)  # fmt: skip


def retry(actor: Actor, job_id: int) -> Job:
    """Puts a failed or cancelled job back into the queue."""
    job = get(job_id)
    actor.require_owner(f"Job {job.pk}", job.created_by)
    if job.status not in (Status.FAILED, Status.CANCELLED):
        raise ConflictError(f"Job {job_id} is {job.status}: only a failed or cancelled job can be retried.")
    if job.kind == Kind.SERVE:
        raise ConflictError("Activate the model again instead: an engine that has ended isn't started twice.")
    if job.kind == Kind.EXTERNAL:
        raise ConflictError(f"Job {job_id} is a script's own run: start the script again, as a new run.")
    with transaction.atomic():
        job = transition(
            job_id, Status.PENDING, reason="retried", actor=actor, desired=Desired.RUN, error=None, failures=0,
            not_before=None, position=0,
        )  # fmt: skip
        retried.send(sender=Job, job=job)
    return job


def set_priority(actor: Actor, job_id: int, word: str) -> Job:
    """Changes the place in the queue: `high`, `normal` or `low`. A place given by hand was among its old equals."""
    job = get(job_id)
    actor.require_owner(f"Job {job.pk}", job.created_by)
    priority = parse_priority(word)
    with transaction.atomic():
        Job.objects.filter(pk=job_id).update(priority=priority, position=0)
        audit(actor, "job.priority", f"job {job_id}", priority=word)
        job = get(job_id)
        announce(job)
        transaction.on_commit(bell.wake)
    return job


def parse_priority(word: str) -> Priority:
    """The priority of a word. Raises InvalidInputError."""
    try:
        return Priority[word.upper()]
    except KeyError:
        raise InvalidInputError(f"There is no priority {word!r}: choose high, normal or low.") from None


def statistics() -> dict[str, int]:
    """Jobs by status, engines left out, and how many ended in the last hour."""
    rows = Job.objects.exclude(kind=Kind.SERVE)
    counts = dict(rows.values_list("status").annotate(n=Count("id")))
    recent = rows.filter(ended_at__gte=timezone.now() - timedelta(hours=1)).count()
    return {**{status: counts.get(status, 0) for status in Status.values}, "jobs_last_hour": recent}
