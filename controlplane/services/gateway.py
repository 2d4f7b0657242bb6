"""The way from a chat client to an engine. Runs in the web process, on the server's loop.

Requests go to the least busy engine of their model; tokens stream through as they come. A request stays with the engine
that it began on; one whose engine ends before the first byte goes to another that is ready. While an engine is on its
way requests wait, a bounded number for a bounded time. A client that goes away closes the engine's stream, and with it
the generation.
"""

import asyncio
import io
import json
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
from channels.db import database_sync_to_async

from controlplane.errors import UnavailableError
from controlplane.models.access import Actor
from controlplane.recall import memory
from controlplane.services import deployments, finding, settings
from controlplane.services.answer_meter import (
    NOTHING,
    Measured,
    StreamMeter,
    asks_for_usage,
    estimated_prompt_tokens,
    with_usage,
)
from controlplane.services.answer_meter import of_whole as measured_whole
from controlplane.services.engine_http import end_connections, heed_breaks, session
from controlplane.services.finding import ANY_MODEL, Found
from controlplane.services.key_limits import Admission, gatekeeper
from controlplane.services.passage import Passage, Source
from controlplane.services.routing import Engine, traffic, waiting_room
from controlplane.services.usage import ledger

__all__ = ["ANY_MODEL", "Engine", "Reply", "end_connections", "engine_for", "forward"]
LOOK_EVERY_SECONDS = 2.0
"""An engine that changes wakes who waits; another process may have changed it, so that they look by themselves too."""

FULL_RETRY_SECONDS = 10
LARGE_BYTES = 1 << 20
"""From here on a request is sent to its engine piece by piece."""

BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses of an engine that may answer the next time."""

BROKEN = (
    aiohttp.ClientOSError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientResponseError,
    aiohttp.ServerDisconnectedError,
)
GONE = (aiohttp.ConnectionTimeoutError, *BROKEN)
"""How an engine that has ended shows; one that merely takes long is not asked twice."""


@dataclass
class Reply:
    """An engine's answer: `content` when it is whole, else `chunks` to pass on as they come."""

    status_code: int
    content_type: str
    content: bytes = b""
    chunks: Passage | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_busy(self) -> bool:
        """Whether the engine may answer the next time."""
        return self.status_code in BUSY

    def retry_after_seconds(self, otherwise: int) -> int:
        """When the engine wants to be asked again, as far as it says so in seconds."""
        told = self.headers.get("Retry-After", "").strip()
        return int(told) if told.isdecimal() else otherwise


class EngineGoneError(UnavailableError):
    """The engine ended before the first byte of its answer: another one may be asked."""


async def engine_for(model_name: str | None) -> Engine:
    """The least busy ready engine of a model, of the active one where none is named.

    Raises NotFoundError (no such model) or UnavailableError (not served, or not ready yet).
    """
    found = await _find(model_name or "", None)
    engine = traffic.least_busy(found.engines)
    if engine is None:
        raise found.problem
    return engine


async def _find(asked: str, actor: Actor | None, user: str = "") -> Found:
    ready = await memory.told("engines", deployments.engines)
    return finding.at_once(ready or (), asked, actor) or await database_sync_to_async(finding.find)(asked, actor, user)


@dataclass
class Errand:
    """One request on its way: to be sent to `path` of an engine, `began` (time.monotonic)."""

    path: str
    body: dict[str, Any]
    actor: Actor | None
    admission: Admission
    began: float = field(default_factory=time.monotonic)
    tried: set[tuple[int, int]] = field(default_factory=set)
    model_name: str = ""

    @property
    def asked(self) -> str:
        """The name in the request."""
        return self.body.get("model") or ""

    @property
    def user(self) -> str:
        """OpenAI's option `user`, which keeps a person with the same model of a split."""
        told = self.body.get("user")
        return told if isinstance(told, str) else ""

    def over(self, measured: Measured = NOTHING, *, failed: bool = False) -> None:
        """Counts it, however it ended."""
        self.admission.settle(measured.tokens)
        if self.model_name:
            ledger.note(self.actor, self.model_name, measured, failed=failed)


async def forward(path: str, body: dict[str, Any], actor: Actor | None = None) -> Reply:
    """Sends a request to `path` ("/v1/chat/completions") of the right engine and returns its answer.

    With `"stream": true` the reply has `chunks`; whoever takes it must exhaust or close them. `actor` is whose limits
    and usage it counts for; without one it is the product's own.
    Raises RateLimitedError, ForbiddenError, NotFoundError, UnavailableError.
    """
    errand = Errand(path, body, actor, gatekeeper.admit(actor, body))
    try:
        reply = await _carry_out(errand)
    except asyncio.CancelledError:
        errand.over(Measured(estimated_prompt_tokens(body), 0, is_whole=False))
        raise
    except BaseException:
        errand.over(failed=True)
        raise
    reply.headers.update(errand.admission.headers)
    return reply


async def _carry_out(errand: Errand) -> Reply:
    """Asks engine after engine until one answers. A refusal for being full is the answer when no other is left.

    A request that an engine has died of isn't kept waiting for the next one, which might die of it too.
    """
    last: EngineGoneError | None = None
    busy: Reply | None = None
    while True:
        engine = await _next_engine(errand, may_wait=last is None)
        if engine is None:
            if busy is not None:
                errand.over(failed=True)
                return busy
            assert last is not None  # noqa: S101 - an engine was tried, or there would be one or an error
            raise last
        errand.tried.add(engine.key)
        try:
            reply = await _ask(errand, engine)
        except EngineGoneError as error:
            last = error
            continue
        if reply.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            return reply
        busy = reply


async def _next_engine(errand: Errand, *, may_wait: bool) -> Engine | None:
    """The least busy engine that wasn't tried; None where all were. While one is coming, the request waits for it."""
    found = await _find(errand.asked, errand.actor, errand.user)
    errand.model_name = found.model_name
    engine = traffic.least_busy(found.engines, errand.tried)
    if engine is not None or found.engines or not may_wait:
        return engine
    return await _wait_for_engine(errand, found)


async def _wait_for_engine(errand: Errand, found: Found) -> Engine:
    """Raises UnavailableError where too many wait already, and when it takes too long."""
    most, seconds = await database_sync_to_async(_patience)()
    with waiting_room.seat(most) as seated:
        if not seated:
            raise UnavailableError(
                f"{most} requests wait for an engine already (setting serving.max_waiting): ask again later.",
                FULL_RETRY_SECONDS,
            )
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            await waiting_room.sleep(min(left, LOOK_EVERY_SECONDS))
            found = await _find(errand.asked, errand.actor, errand.user)
            errand.model_name = found.model_name
            engine = traffic.least_busy(found.engines)
            if engine is not None:
                return engine
        raise found.problem


def _patience() -> tuple[int, float]:
    return settings.get("serving.max_waiting"), settings.get("serving.wait_seconds")


async def _ask(errand: Errand, engine: Engine) -> Reply:
    """Sends the request to one engine. Raises EngineGoneError where it ended before the first byte of its answer."""
    traffic.begin(engine.deployment_id)
    is_passed_on = False
    try:
        answer = await _send(errand, engine)
        try:
            if answer.status == HTTPStatus.OK and errand.body.get("stream"):
                reply = await _stream(errand, engine, answer)
                is_passed_on = True
                return reply
            return _whole(errand, answer, await Source(answer).whole())
        except GONE as error:
            raise EngineGoneError(f"The engine of {engine.model_name} broke off: ask again.", 5) from error
        finally:
            if not is_passed_on:
                answer.close()
    except aiohttp.ClientError as error:
        raise UnavailableError(
            f"The engine of {engine.model_name} doesn't answer ({type(error).__name__}): ask again.", 5
        ) from error
    finally:
        if not is_passed_on:
            traffic.end(engine.deployment_id)


async def _send(errand: Errand, engine: Engine) -> aiohttp.ClientResponse:
    """The beginning of its answer. A connection that broke may have been an old one: it is tried on another too, unless
    nobody listens any more.
    """
    content = json.dumps({**with_usage(errand.body), "model": engine.model_name}).encode()
    headers = {**engine.headers, "Content-Type": "application/json"}

    async def once() -> aiohttp.ClientResponse:
        body = content if len(content) < LARGE_BYTES else io.BytesIO(content)
        return await session().post(engine.base_url + errand.path, data=body, headers=headers, allow_redirects=False)

    try:
        try:
            answer = await once()
        except aiohttp.ClientConnectorError:
            raise
        except BROKEN:
            answer = await once()
    except GONE as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise EngineGoneError(f"The engine of {engine.model_name} can't be reached ({why}): ask again.", 5) from error
    heed_breaks(answer)
    return answer


async def _stream(errand: Errand, engine: Engine, answer: aiohttp.ClientResponse) -> Reply:
    meter = StreamMeter(
        shows_usage=asks_for_usage(errand.body), prompt_tokens=estimated_prompt_tokens(errand.body), began=errand.began
    )

    def over(*, failed: bool) -> None:
        traffic.end(engine.deployment_id)
        errand.over(meter.measured(), failed=failed)

    passage = await Passage.opened(answer, meter, over)
    return Reply(200, answer.headers.get("content-type", "text/event-stream"), chunks=passage, headers=_kept(answer))


def _whole(errand: Errand, answer: aiohttp.ClientResponse, content: bytes) -> Reply:
    content_type = answer.headers.get("content-type", "application/json")
    if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:  # of that one another engine may know better
        is_good = answer.status == HTTPStatus.OK
        errand.over((measured_whole(content) if is_good else None) or NOTHING, failed=not is_good)
    return Reply(answer.status, content_type, content=content, headers=_kept(answer))


def _kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {"Retry-After": answer.headers["retry-after"]} if "retry-after" in answer.headers else {}
