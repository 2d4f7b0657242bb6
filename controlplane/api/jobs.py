"""The queue: /api/jobs. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.jobs import Job, JobList, JobStatistics, Priority
from controlplane.services import jobs

router = Router(tags=["Jobs"])


@router.get("/jobs", response=JobList)
def list_jobs(
    request: ActorRequest,
    type: str | None = None,
    status: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Jobs, newest first."""
    return {"jobs": [jobs.facts(job) for job in jobs.list_jobs(type, status, limit)]}


@router.get("/jobs/stats", response=JobStatistics)
def get_statistics(request: ActorRequest) -> dict[str, int]:
    """How many jobs there are in each status."""
    return jobs.statistics()


@router.get("/jobs/{int:job_id}", response=Job)
def get_job(request: ActorRequest, job_id: int) -> dict[str, Any]:
    """One job."""
    return jobs.facts(jobs.get(job_id))


@router.post("/jobs/{int:job_id}/cancel", response=Job)
def cancel(request: ActorRequest, job_id: int) -> dict[str, Any]:
    """Ends a job now; its status changes when its process is gone."""
    return jobs.facts(jobs.cancel(request.actor, job_id))


@router.post("/jobs/{int:job_id}/retry", response=Job)
def retry(request: ActorRequest, job_id: int) -> dict[str, Any]:
    """Puts a failed or cancelled job back into the queue."""
    return jobs.facts(jobs.retry(request.actor, job_id))


@router.post("/jobs/{int:job_id}/priority", response=Job)
def set_priority(request: ActorRequest, job_id: int, payload: Priority) -> dict[str, Any]:
    """Changes a job's place in the queue."""
    return jobs.facts(jobs.set_priority(request.actor, job_id, payload.priority))
