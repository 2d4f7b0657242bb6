"""Text on demand as jobs: what POST /api/generate queues, and how an engine answers it. Runs in the web process.

A generation goes through the gateway to a ready engine, as a chat does, and comes after all chats: it begins only while
nobody waits at its engine, and `generate.max_concurrent` at a time leave the other places of the batch to chats. It
loads no model itself.
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp
from channels.db import database_sync_to_async
from django.utils import timezone

from controlplane.errors import (
    ConflictError,
    FieldFault,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PilothouseError,
    RateLimitedError,
    UnavailableError,
    UnknownModelError,
)
from controlplane.models import ApiKey, Job
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Kind, Status
from controlplane.services import gateway, jobs, pruning, settings
from controlplane.services.engine_http import session
from controlplane.services.finding import ANY_MODEL, find

MODES = ("normal", "profile")
FULL_QUEUE_RETRY_SECONDS = 10
STATISTICS_TIMEOUT = aiohttp.ClientTimeout(total=2)


class RefusedError(PilothouseError):
    """The engine won't answer this prompt, now or later."""

    code = "refused"


class BusyError(UnavailableError):
    """The engine is full, or about to end: it will answer, or another will."""


FINAL: dict[str, type[PilothouseError]] = {
    RefusedError.code: InvalidInputError,
    ForbiddenError.code: ForbiddenError,
    UnknownModelError.code: UnknownModelError,
}
"""By the code that a job has failed with: what its caller hears where asking again would change nothing."""


@dataclass(frozen=True)
class Wanted:
    """What is to be generated: the options are OpenAI's; `mode` "profile" applies what the model was trained with."""

    prompt: str
    model: str
    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.9
    mode: str = "normal"

    def body(self) -> dict[str, Any]:
        """The chat that asks for it."""
        return {
            "model": self.model, "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p,
            "apply_profile": self.mode == "profile",
        }  # fmt: skip


def create(actor: Actor, wanted: Wanted) -> Job:
    """Queues a generation; `wanted.model` empty: by the active model.

    Raises NotFoundError (no such model), ForbiddenError (not for this key), UnavailableError (no engine serves it and
    none is coming, or the queue is full).
    """
    actor.require(Role.USE)
    if wanted.mode not in MODES:
        raise InvalidInputError(
            f"There is no mode {wanted.mode!r}: choose normal or profile.", (FieldFault("mode", "normal or profile"),)
        )
    found = find(wanted.model, actor)
    limit = settings.get("generate.max_waiting")
    if Job.objects.filter(kind=Kind.GENERATE, status=Status.PENDING).count() >= limit:
        raise UnavailableError(
            f"{limit} generations are waiting already: ask again when some are done, or raise generate.max_waiting.",
            FULL_QUEUE_RETRY_SECONDS,
        )
    name = found.model_name if wanted.model in ANY_MODEL else wanted.model
    config = {
        "prompt": wanted.prompt, "model": name, "max_tokens": wanted.max_tokens, "temperature": wanted.temperature,
        "top_p": wanted.top_p, "mode": wanted.mode, "key_id": actor.key_id,
    }  # fmt: skip
    return jobs.create(actor, Kind.GENERATE, f"generate with {name}", config)


def facts(job: Job) -> dict[str, Any]:
    """A generation as the API tells it; the last three are None until it is done."""
    result = job.result or {}
    return {
        "job_id": job.pk, "status": job.status, "model_id": job.config["model"], "text": result.get("text"),
        "usage": result.get("usage"), "finish_reason": result.get("finish_reason"),
    }  # fmt: skip


def outcome(job: Job) -> dict[str, Any]:
    """The facts of one that is done. Raises what has become of any other that has ended."""
    if job.status == Status.DONE:
        return facts(job)
    error = job.error or {}
    if job.status == Status.CANCELLED:
        raise ConflictError(f"Job {job.pk} was cancelled before it was done.")
    message = error.get("message") or f"Job {job.pk} has failed; its page says why."
    if (final := FINAL.get(error.get("code", ""))) is not None:
        raise final(message)
    raise UnavailableError(message, 5)


def prune() -> int:
    """Takes away those that ended more than `generate.keep_days` ago (0: none). Returns how many."""
    days = settings.get("generate.keep_days")
    if not days:
        return 0
    ended = Job.objects.filter(kind=Kind.GENERATE, ended_at__lt=timezone.now() - timedelta(days=days))
    return pruning.delete_slowly(ended, pruning.AT_ONCE)


# --- Answering, called by `controlplane.generating` -------------------------------------------------------------------


def _actor(job: Job) -> Actor:
    """Whose limits and usage it counts for. Raises RefusedError where the key is no longer valid."""
    number = job.config.get("key_id")
    if number is None:
        return Actor(job.created_by, Role.USE)
    key = ApiKey.objects.filter(pk=number).first()
    if key is None or not key.is_valid():
        raise RefusedError(f"The {job.created_by} was revoked or has expired before its turn came.")
    return key.actor()


async def room(model: str) -> str:
    """Why a generation can't begin on a model's engine now; empty when its turn has come."""
    try:
        engine = await gateway.engine_for(model)
    except NotFoundError:
        return ""  # the model has been deleted: whoever asks the gateway for it hears so, and fails
    except PilothouseError as error:
        return error.message
    waiting = await _waiting_at(engine.base_url, engine.headers)
    return f"waits for {waiting} chats at the engine of {model}" if waiting else ""


async def _waiting_at(base_url: str, headers: dict[str, str]) -> int:
    """How many requests wait for a place; 0 where the engine doesn't tell."""
    try:
        async with session().get(f"{base_url}/stats", headers=headers, timeout=STATISTICS_TIMEOUT) as answer:
            answer.raise_for_status()
            return int(json.loads(await answer.read()).get("waiting") or 0)
    except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, AttributeError):
        return 0


async def answer(job: Job) -> dict[str, Any]:
    """What an engine makes of it: `text`, `usage`, `finish_reason`.

    Raises RefusedError for good, BusyError and UnavailableError (it broke off) for now.
    """
    asked = Wanted(**{name: job.config[name] for name in Wanted.__dataclass_fields__})
    actor = await database_sync_to_async(_actor)(job)
    try:
        reply = await gateway.forward("/v1/chat/completions", asked.body(), actor)
    except RateLimitedError as error:
        raise BusyError(error.message, error.retry_after_seconds) from error
    try:
        whole = json.loads(reply.content)
        if reply.status_code == 200:
            choice = whole["choices"][0]
            return {
                "text": choice["message"]["content"] or "", "usage": whole["usage"],
                "finish_reason": choice["finish_reason"],
            }  # fmt: skip
        said = str(whole["error"]["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        said = f"The engine answered {reply.status_code} with something that is no answer."
    if reply.is_busy:
        raise BusyError(said, reply.retry_after_seconds(1))
    raise RefusedError(said)
