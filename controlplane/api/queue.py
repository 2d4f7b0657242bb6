"""The order of the queue and its pause: /api/queue, /api/jobs/ID/move. Runs in the web process."""

from typing import Any

from ninja import Router

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.jobs import Job
from controlplane.api.schemas.queue import Move, Pause, Queue
from controlplane.services import jobs, queue

router = Router(tags=["Jobs"])


@router.get("/queue", response=Queue)
def get_queue(request: ActorRequest) -> dict[str, Any]:
    """Whether training runs start, and the waiting jobs in the order in which they will."""
    return {**queue.facts(), "jobs": [jobs.facts(job) for job in jobs.queue()]}


@router.post("/queue/pause", response=Queue)
def pause(request: ActorRequest, payload: Pause | None = None) -> dict[str, Any]:
    """Lets no further training run start (admin); those that run go on."""
    queue.pause(request.actor, payload.reason if payload else "")
    return get_queue(request)


@router.post("/queue/resume", response=Queue)
def resume(request: ActorRequest) -> dict[str, Any]:
    """Lets training runs start again (admin)."""
    queue.resume(request.actor)
    return get_queue(request)


@router.post("/jobs/{int:job_id}/move", response=Job)
def move(request: ActorRequest, job_id: int, payload: Move) -> dict[str, Any]:
    """Moves a waiting job among those of its priority: up, down, top, bottom."""
    return jobs.facts(queue.move(request.actor, job_id, payload.to))
