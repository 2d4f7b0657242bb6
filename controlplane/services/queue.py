"""The order of the queue, and its pause. Runs in the web process.

Jobs start by priority, then by position, then by age. A position is given by hand alone: it is below zero, so that what
is queued later stands behind. A pause holds training runs; files are still checked, models fetched, engines started.
"""

import logging
from typing import Any

from django.db import transaction

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.legible import is_legible
from controlplane.live.announce import publish
from controlplane.models import Job, Run
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Kind, Priority, Status
from controlplane.services import bell, jobs, settings
from controlplane.services.access import audit

log = logging.getLogger(__name__)
BECAUSE = "queue.paused_because"
MAX_REASON = 200
MOVES = ("up", "down", "top", "bottom")


# --- Order ------------------------------------------------------------------------------------------------------------


def move(actor: Actor, job_id: int, to: str) -> Job:
    """Moves a waiting job among those of its priority: `up`, `down`, `top`, `bottom`.

    Raises ConflictError for one that doesn't wait, InvalidInputError for another word. One at the end stays there.
    """
    actor.require(Role.USE)
    if to not in MOVES:
        raise InvalidInputError(f"A job can't be moved {to!r}: choose {', '.join(MOVES)}.")
    with transaction.atomic():
        job = jobs.get(job_id)
        actor.require_owner(f"Job {job_id}", job.created_by)
        if job.status != Status.PENDING:
            raise ConflictError(f"Job {job_id} is {job.status}: only a job that waits can be moved.")
        waiting = Job.objects.select_for_update().filter(status=Status.PENDING, priority=job.priority)
        order = list(waiting.order_by("position", "id").values_list("pk", flat=True))
        before = order.index(job_id)
        place = {"up": max(0, before - 1), "down": before + 1, "top": 0, "bottom": len(order)}[to]
        order.insert(place, order.pop(before))
        Job.objects.bulk_update(
            [Job(pk=pk, position=index - len(order)) for index, pk in enumerate(order)], ["position"]
        )
        audit(actor, "job.move", f"job {job_id}", to=to, place=order.index(job_id) + 1)
        job = jobs.get(job_id)
        jobs.announce(job)
        transaction.on_commit(bell.wake)
    return job


# --- Pause ------------------------------------------------------------------------------------------------------------


def paused_because() -> str:
    """Why no training run starts; nothing where they start."""
    return str(settings.get(BECAUSE))


def facts() -> dict[str, Any]:
    """Whether the queue is paused, why, and whether a failed run pauses it."""
    reason = paused_because()
    return {
        "paused": bool(reason), "reason": reason, "continue_on_error": settings.get("queue.continue_on_error"),
    }  # fmt: skip


def pause(actor: Actor, reason: str = "") -> dict[str, Any]:
    """Lets no further training run start; those that run go on. An admin's."""
    actor.require(Role.ADMIN)
    reason = reason.strip() or f"{actor.name} has paused it"
    if len(reason) > MAX_REASON or not is_legible(reason):
        raise InvalidInputError(f"The reason of a pause has at most {MAX_REASON} printable characters.")
    with transaction.atomic():
        settings.put(actor, BECAUSE, reason)
        audit(actor, "queue.pause", "queue", reason=reason)
        publish("jobs", "status", {"queue": facts()})
        transaction.on_commit(bell.wake)
    return facts()


def resume(actor: Actor) -> dict[str, Any]:
    """Lets training runs start again. An admin's."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        before = paused_because()
        settings.put(actor, BECAUSE, "")
        audit(actor, "queue.resume", "queue", before=before)
        publish("jobs", "status", {"queue": facts()})
        transaction.on_commit(bell.wake)
    return facts()


def waits_for() -> str | None:
    """Why a training run can't start although there may be room."""
    reason = paused_because()
    return f"the queue is paused: {reason}"[:250] if reason else None


def connect() -> None:
    """Hears of every job that fails. Called once, when the app is ready."""
    jobs.moved.connect(_moved, dispatch_uid="queue.moved")


def _moved(job: Job, **_more: Any) -> None:
    """With queue.continue_on_error off a run that has failed pauses the queue, so that what follows isn't wasted."""
    if job.kind != Kind.TRAIN or job.status != Status.FAILED:
        return
    try:
        with transaction.atomic():
            if not settings.get("queue.continue_on_error") and not paused_because():
                run = Run.objects.filter(job=job).first()
                name = f"run {run}" if run else f"job {job.pk}"
                pause(SYSTEM, f"{name} has failed (queue.continue_on_error is off)"[:MAX_REASON])
    except Exception:  # the job has failed in any case
        log.exception("job %s has failed, and the queue could not be paused", job.pk)


def ends(waiting: list[Job]) -> dict[int, tuple[bool, bool]]:
    """Whether each job of the queue, or of its head, is the first and the last of its priority, by its id."""
    found: dict[int, tuple[bool, bool]] = {}
    for level in Priority.values:
        group = [job.pk for job in waiting if job.priority == level]
        if group:
            last = Job.objects.filter(status=Status.PENDING, priority=level).order_by("-position", "-id").first()
            found |= {pk: (pk == group[0], last is not None and pk == last.pk) for pk in group}
    return found
