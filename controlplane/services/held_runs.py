"""Training runs that the product pauses for a while (heat, maintenance) and lets go on. Runs in the web process.

Who pauses keeps the ids. What a person has paused, or paused again meanwhile, is theirs.
"""

import logging
from collections.abc import Iterable

from controlplane.errors import ConflictError
from controlplane.models import AuditLine, Job
from controlplane.models.access import Actor
from controlplane.models.jobs import Desired
from controlplane.services import jobs

log = logging.getLogger(__name__)


def resume(guard: Actor, job_ids: Iterable[int]) -> list[int]:
    """Lets the runs go on that `guard` has paused; returns those for which that can't be done yet."""
    return [job_id for job_id in job_ids if not _is_settled(guard, job_id)]


def _is_settled(guard: Actor, job_id: int) -> bool:
    """Whether nothing is left to do for a run that was paused. Resumes it where that is due."""
    job = Job.objects.filter(pk=job_id).first()
    if job is None or job.desired != Desired.PAUSE:
        return True
    said = AuditLine.objects.filter(action=f"job.{Desired.PAUSE}", target=f"job {job_id}").first()
    if said is not None and said.actor != guard.name:
        return True
    try:
        jobs.resume(guard, job_id)
    except ConflictError as error:  # it still writes its checkpoint, or has just ended
        log.info("%s", error)
        return jobs.get(job_id).has_ended
    return True
