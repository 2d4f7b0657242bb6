"""Generations that wait for an engine (`services.generations`), answered several at a time. A duty of the web process.

One thread of one process works here, so a generation that is running when it begins was left by a process that died: it
is queued once more.
"""

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from typing import Any

from channels.db import database_sync_to_async
from django.utils import timezone

from controlplane.errors import ConflictError, PilothouseError, UnavailableError
from controlplane.models import Job
from controlplane.models.jobs import Desired, Kind, Status
from controlplane.services import bell, gateway, generations, jobs, settings, usage
from controlplane.services.generations import BusyError

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
"""How often, while some are being answered, it is asked who has come and who has been cancelled."""

IDLE_SECONDS = 1.0
LOOKED_THROUGH = 1000
"""How many of those that wait are looked at in one round."""

TOLD = 20
"""The first so many are told why they wait; what the others wait for are these."""

Waiting = tuple[int, str, str]
"""A generation that waits: its job, its model, and why it waits as far as that is said."""


def work() -> None:
    """Waits for a ring, a second at most, then answers what can be answered now."""
    bell.wait(IDLE_SECONDS, bell.GENERATIONS)
    answer_all()


def answer_all() -> None:
    """Answers every generation that has an engine, until none is left that has."""
    kind = Job.objects.filter(kind=Kind.GENERATE)
    if kind.filter(status__in=(Status.RUNNING, Status.PENDING)).exists():  # as a rule: one small question a second
        asyncio.run(_Round().run())


class _Round:
    """From a queue that holds something to one that holds nothing that could begin."""

    def __init__(self) -> None:
        self._at_work: dict[asyncio.Task[None], tuple[int, str]] = {}

    async def run(self) -> None:
        await database_sync_to_async(_take_up_left)()
        try:
            while await self._begin_more():
                await asyncio.wait(self._at_work, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                await self._let_go_of_cancelled()
        finally:
            for task in self._at_work:
                task.cancel()
            await asyncio.gather(*self._at_work, return_exceptions=True)
            await gateway.end_connections()
            await database_sync_to_async(usage.ledger.flush)()  # what is planned on this loop would end with it

    async def _begin_more(self) -> bool:
        """Begins what can begin; returns whether anything is being answered."""
        self._at_work = {task: what for task, what in self._at_work.items() if not task.done()}
        limit, waiting = await database_sync_to_async(_look)()
        busy = Counter(model for _, model in self._at_work.values())
        without_room: dict[str, str] = {}
        for place, (job_id, model, said) in enumerate(waiting):
            if busy[model] >= limit:
                continue
            if model not in without_room and (reason := await generations.room(model)):
                without_room[model] = reason[:250]
            if model not in without_room:
                busy[model] += 1
                self._at_work[asyncio.create_task(_answer(job_id))] = (job_id, model)
            elif place < TOLD and without_room[model] != said:
                await database_sync_to_async(jobs.set_waiting_reason)(job_id, without_room[model])
        return bool(self._at_work)

    async def _let_go_of_cancelled(self) -> None:
        unwanted = await database_sync_to_async(_unwanted)([job_id for job_id, _ in self._at_work.values()])
        for task, (job_id, _) in self._at_work.items():
            if job_id in unwanted:
                task.cancel()


def _take_up_left() -> None:
    for left in Job.objects.filter(kind=Kind.GENERATE, status=Status.RUNNING):
        if left.desired == Desired.RUN:
            jobs.transition(left.pk, Status.PENDING, reason="interrupted: the web server ended")
        else:
            jobs.transition(left.pk, Status.CANCELLED, reason="cancelled")


def _look() -> tuple[int, list[Waiting]]:
    """How many may be answered at a time by one model, and those that wait and may be tried now."""
    rows = Job.objects.filter(kind=Kind.GENERATE, status=Status.PENDING).exclude(not_before__gt=timezone.now())
    order = rows.order_by("-priority", "position", "id")
    waiting = list(order.values_list("pk", "config__model", "waiting_reason")[:LOOKED_THROUGH])
    return settings.get("generate.max_concurrent"), waiting


def _unwanted(job_ids: list[int]) -> set[int]:
    return set(Job.objects.filter(pk__in=job_ids).exclude(desired=Desired.RUN).values_list("pk", flat=True))


async def _answer(job_id: int) -> None:
    """One generation, from its claim to its end."""
    try:
        job = await database_sync_to_async(_claim)(job_id)
    except ConflictError:
        return  # cancelled at this moment
    try:
        result = await generations.answer(job)
    except asyncio.CancelledError:  # by its owner, or with the web server, whose successor takes it up again
        await database_sync_to_async(_cancelled)(job_id)
        raise
    except UnavailableError as error:
        await database_sync_to_async(_try_later)(job, error)
    except PilothouseError as error:
        await database_sync_to_async(_fail)(job_id, error.code, error.message)
    except Exception as error:  # the duty must live for the jobs behind it
        log.exception("job %s (generate) failed", job_id)
        await database_sync_to_async(_fail)(job_id, "internal", f"{type(error).__name__}: {error}")
    else:
        await database_sync_to_async(_done)(job_id, result)


def _claim(job_id: int) -> Job:
    count = jobs.get(job_id).attempt_count + 1
    return jobs.transition(
        job_id, Status.RUNNING, reason="through the gateway", attempt_count=count, phase="active", waiting_reason=""
    )


def _done(job_id: int, result: dict[str, Any]) -> None:
    jobs.transition(job_id, Status.DONE, reason="result", result=result, error=None)


def _cancelled(job_id: int) -> None:
    if _unwanted([job_id]):
        jobs.transition(job_id, Status.CANCELLED, reason="cancelled")


def _fail(job_id: int, code: str, message: str) -> None:
    error = {"code": code, "message": message, "fix": ""}
    jobs.transition(job_id, Status.FAILED, reason=message[:200], error=error)


def _try_later(job: Job, error: UnavailableError) -> None:
    """The engine is full, or has gone: tried again when it says, and given up when it has gone too often."""
    failures = job.failures + (not isinstance(error, BusyError))
    if failures >= job.max_failures:
        _fail(job.pk, error.code, error.message)
        return
    later = timezone.now() + timedelta(seconds=error.retry_after_seconds)
    jobs.transition(
        job.pk, Status.PENDING, reason="tried again later", failures=failures, not_before=later,
        waiting_reason=error.message[:250],
    )  # fmt: skip
