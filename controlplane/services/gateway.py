"""The way from a chat client to an engine. Runs in the web process, on the server's loop.

Requests go to the engine as they came; tokens stream through as they come. A client that goes away closes the engine's
stream, and with it the generation.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from channels.db import database_sync_to_async

from controlplane.errors import NotFoundError, UnavailableError
from controlplane.models import LanguageModel
from controlplane.models.deployments import DeploymentStatus
from controlplane.services import deployments

CONNECT_TIMEOUT_SECONDS = 5
ANSWER_TIMEOUT_SECONDS = 600
ANY_MODEL = ("", "active", "default")


@dataclass(frozen=True)
class Engine:
    """A ready engine and how to speak to it."""

    deployment_id: int
    model_name: str
    base_url: str
    headers: dict[str, str]


@dataclass
class Reply:
    """An engine's answer: `content` when it is whole, else `chunks` to pass on as they come."""

    status_code: int
    content_type: str
    content: bytes = b""
    chunks: AsyncIterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


def _client() -> httpx.AsyncClient:
    """One client, with its kept connections, for each event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        timeout = httpx.Timeout(ANSWER_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        _clients[loop] = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False)
    return _clients[loop]


def _find_engine(model_name: str) -> Engine:
    named = model_name not in ANY_MODEL
    row = deployments.serving(model_name) if named else deployments.active()
    if row is None and named and not LanguageModel.objects.filter(name=model_name).exists():
        raise NotFoundError(f"There is no model {model_name!r}. GET /v1/models lists those that are being served.")
    if row is None:
        what = f"The model {model_name!r} is not being served" if named else "No model is active"
        raise UnavailableError(f"{what}: activate it on the Models page, then ask again.", 10)
    if row.status != DeploymentStatus.READY or row.port is None:
        raise UnavailableError(f"The engine of {row.model.name} is {row.status}: ask again in a moment.", 5)
    return Engine(row.pk, row.model.name, deployments.base_url(row), deployments.headers(row))


async def engine_for(model_name: str | None) -> Engine:
    """The ready engine of a model, of the active one where none is named.

    Raises NotFoundError (no such model) or UnavailableError (not served, or not ready yet).
    """
    engine: Engine = await database_sync_to_async(_find_engine)(model_name or "")
    return engine


async def forward(path: str, body: dict[str, Any]) -> Reply:
    """Sends a request to `path` ("/v1/chat/completions") of the right engine and returns its answer.

    With `"stream": true` the reply has `chunks`; whoever takes it must exhaust or close them.
    """
    engine = await engine_for(body.get("model"))
    content = json.dumps({**body, "model": engine.model_name}).encode()
    headers = {**engine.headers, "Content-Type": "application/json"}
    request = _client().build_request("POST", engine.base_url + path, content=content, headers=headers)
    try:
        answer = await _client().send(request, stream=True)
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"The engine of {engine.model_name} can't be reached ({error}): ask again.", 5
        ) from error
    kept = {"Retry-After": answer.headers["retry-after"]} if "retry-after" in answer.headers else {}
    content_type = answer.headers.get("content-type", "application/json")
    if answer.status_code == 200 and body.get("stream"):
        return Reply(200, content_type, chunks=_chunks(answer), headers=kept)
    try:
        whole = await answer.aread()
    except httpx.HTTPError as error:
        raise UnavailableError(f"The engine of {engine.model_name} broke off: ask again.", 5) from error
    finally:
        await answer.aclose()
    return Reply(answer.status_code, content_type, content=whole, headers=kept)


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes of a stream. An engine that dies in the middle ends it with an error event, never with silence."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.HTTPError:
        fault = {"message": "The engine ended before the answer did.", "type": "server_error", "param": None,
                 "code": "engine_lost"}  # fmt: skip
        yield f"data: {json.dumps({'error': fault})}\n\n".encode()
    finally:
        await answer.aclose()
