"""Text on demand: /api/generate. Runs in the web process."""

import asyncio
import time
from typing import Any

from asgiref.sync import sync_to_async
from ninja import Router, Status

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.generate import Generate, Generation
from controlplane.errors import ConflictError
from controlplane.models import Job
from controlplane.models.access import SYSTEM, Role
from controlplane.services import generations, jobs
from controlplane.services.generations import Wanted

router = Router(tags=["Inference"])
WAIT_SECONDS = 300.0
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS, LONGER_BY = 0.05, 1.0, 1.3
"""A short text is told at once; for a long one nobody asks the data base ten times a second."""


@router.post("/generate", response={200: Generation, 202: Generation})
async def generate(request: ActorRequest, payload: Generate) -> Status[dict[str, Any]]:
    """Queues a generation below all chats: 202 with its job. With `wait` 200 when it is done (at most 300 s, else 202).

    `mode` `profile` applies the model's profile: its system prompt and its logits processors.
    """
    request.actor.require(Role.USE)
    wanted = Wanted(
        payload.prompt, payload.model_id or "", payload.max_tokens, payload.temperature, payload.top_p, payload.mode
    )
    job = await sync_to_async(generations.create)(request.actor, wanted)
    if not payload.wait:
        return Status(202, generations.facts(job))
    try:
        job = await _settled(job.pk, WAIT_SECONDS)
    except asyncio.CancelledError:  # the client has gone, and nobody else knows of the job
        await sync_to_async(_drop)(job.pk)
        raise
    return Status(200, generations.outcome(job)) if job.has_ended else Status(202, generations.facts(job))


async def _settled(job_id: int, wait_seconds: float) -> Job:
    """The job once it has ended, or as it stands when the time is over."""
    deadline = time.monotonic() + wait_seconds
    look_seconds = FIRST_LOOK_SECONDS
    while True:
        job = await sync_to_async(jobs.get)(job_id)
        if job.has_ended or time.monotonic() >= deadline:
            return job
        await asyncio.sleep(min(look_seconds, max(0.0, deadline - time.monotonic())))
        look_seconds = min(LONGEST_LOOK_SECONDS, look_seconds * LONGER_BY)


def _drop(job_id: int) -> None:
    try:
        jobs.cancel(SYSTEM, job_id)
    except ConflictError:
        return  # done at this moment
