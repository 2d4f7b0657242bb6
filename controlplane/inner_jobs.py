"""Jobs that the web process does itself, one after the other: snapshots and cleaning. A duty of the web process.

One thread of one process works here, so a job that is running when it looks was left by a process that died: it is
queued once more, and both kinds can be done again from the beginning.
"""

import logging

from controlplane.errors import ConflictError, PilothouseError
from controlplane.kinds.registry import KINDS, kind_of
from controlplane.models import Job
from controlplane.models.jobs import Desired, Status
from controlplane.services import jobs
from controlplane.services.job_progress import JobCancelledError

log = logging.getLogger(__name__)
INNER = [name for name, kind in KINDS.items() if kind.runs_here and kind.in_turn]


def work() -> int | None:
    """Does the next such job to its end; returns it, or None where there is none."""
    if not Job.objects.filter(kind__in=INNER, status__in=(Status.RUNNING, Status.PENDING)).exists():
        return None  # as nearly always: one small question a second
    for left in Job.objects.filter(kind__in=INNER, status=Status.RUNNING):
        _take_up(left)
    job = next(iter(jobs.queue(INNER)), None)
    if job is None:
        return None
    try:
        count = job.attempt_count + 1
        job = jobs.transition(
            job.pk, Status.RUNNING, reason="in the web process", attempt_count=count, phase="active", waiting_reason=""
        )
    except ConflictError:
        return None  # cancelled at this moment
    _do(job)
    return job.pk


def _take_up(left: Job) -> None:
    if left.desired == Desired.RUN:
        jobs.transition(left.pk, Status.PENDING, reason="interrupted: the web server ended")
    else:
        jobs.transition(left.pk, Status.CANCELLED, reason="cancelled")


def _do(job: Job) -> None:
    try:
        result = kind_of(job).work(job)
    except JobCancelledError:
        jobs.transition(job.pk, Status.CANCELLED, reason="cancelled")
    except PilothouseError as error:
        _fail(job, error.code, error.message)
    except Exception as error:  # the duty must live for the jobs behind it
        log.exception("job %s (%s) failed", job.pk, job.kind)
        _fail(job, "internal", f"{type(error).__name__}: {error}")
    else:
        jobs.transition(job.pk, Status.DONE, reason="result", result=result, error=None, progress=None)


def _fail(job: Job, code: str, message: str) -> None:
    error = {"code": code, "message": message, "fix": ""}
    jobs.transition(job.pk, Status.FAILED, reason=message, error=error, progress=None)
