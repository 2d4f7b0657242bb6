"""The queue: /api/jobs. Runs in the web process."""

from typing import Annotated, Any

from django.http import StreamingHttpResponse
from ninja import Query, Router
from ninja.params import functions

from controlplane.api.downloads import in_pieces
from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.jobs import Job, JobList, JobLog, JobStatistics, LogQuery, Priority, Waiting
from controlplane.api.schemas.tables import JobQuery
from controlplane.services import job_logs, jobs, waiting
from controlplane.services.tables import jobs as asked
from controlplane.services.tables import keyset

router = Router(tags=["Jobs"])


@router.get("/jobs", response=JobList)
def list_jobs(
    request: ActorRequest, query: Query[JobQuery], limit: Annotated[int, functions.Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Jobs, newest first, or in the order of `sort`."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    return {"jobs": [jobs.facts(job) for job in found.rows], **found.place}


@router.get("/jobs/stats", response=JobStatistics)
def get_statistics(request: ActorRequest) -> dict[str, int]:
    """How many jobs there are in each status."""
    return jobs.statistics()


@router.get("/jobs/{int:job_id}", response=Job)
def get_job(request: ActorRequest, job_id: int) -> dict[str, Any]:
    """One job. The text of a generation is in its result for whoever asked for it, and for admins."""
    return jobs.facts(jobs.get(job_id), request.actor)


@router.get("/jobs/{int:job_id}/waiting", response=Waiting)
def get_waiting(request: ActorRequest, job_id: int) -> dict[str, Any]:
    """Why a job waits, host by host, and why its attempts went where they went."""
    found = waiting.explain(job_id)
    placed = [{"attempt": number, "host": host, "because": because} for number, host, because in found.placed]
    return {"job_id": job_id, "reason": found.reason, "hosts": found.hosts, "placed": placed}


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


@router.get("/jobs/{int:job_id}/log", response=JobLog)
def get_log(request: ActorRequest, job_id: int, query: Query[LogQuery]) -> dict[str, Any]:
    """Lines of an attempt's log, of the last one's without `attempt`: its end, or a page before or after a byte.

    A search goes through the whole log. Where that takes too long it answers with what it has found back to `start` (or
    on to `end`); asking from there goes on.
    """
    asked = query.dict()
    attempt = asked.pop("attempt")
    return job_logs.page(job_id, attempt, job_logs.Question(**asked))


@router.get("/jobs/{int:job_id}/log/download", openapi_extra={"responses": {200: {"description": "The file."}}})
def download_log(
    request: ActorRequest, job_id: int, attempt: Annotated[int | None, functions.Query(ge=1, lt=1 << 31)] = None
) -> StreamingHttpResponse:
    """An attempt's whole log as a file; one that was compressed meanwhile comes as gzip."""
    name, size, pieces = job_logs.pieces(job_id, attempt)
    return in_pieces(pieces, size, name, "application/gzip" if name.endswith(".gz") else "text/plain; charset=utf-8")
