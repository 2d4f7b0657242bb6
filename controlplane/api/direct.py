"""Chats and completions of scripts, answered before Django's handler. Runs in the web process, around the application.

Sessions, messages, forms and pages are nothing to a script with a key, yet passing them costs ten times the time that
its answer takes. So what is plainly such a call goes straight to the gateway; whatever is in any way unlike one (a
cookie, a query, a header twice, no length, a long body) goes to Django, whose answers are the same
(`tests/controlplane/test_direct.py` compares them).
"""

import asyncio
import time
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, NamedTuple

from asgiref.sync import ThreadSensitiveContext
from csp.middleware import CSPMiddleware
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.request import split_domain_port, validate_host
from django.http.response import HttpResponseBase
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.security import SecurityMiddleware
from django.utils.cache import patch_vary_headers
from django.utils.log import log_response

from controlplane.api import openai
from controlplane.api.errors import as_pilothouse, openai_answer
from controlplane.api.keys import not_valid
from controlplane.api.limits import OPENAI_PATHS, Application, Receive, Scope, Send
from controlplane.api.metrics import TRAFFIC
from controlplane.models.access import Role
from controlplane.services import access
from controlplane.services.exposition.traffic import Traffic
from controlplane.services.gateway import Reply
from controlplane.services.passage import Passage

CALLS = {f"{root}{name}": f"/v1/{name}" for root in OPENAI_PATHS for name in ("chat/completions", "completions")}
"""Where each call is asked of an engine."""

ONCE = (b"host", b"content-length", b"authorization", b"x-api-key")
DJANGOS = (b"cookie", b"transfer-encoding")
BEARER = "bearer"
LONGEST_NUMBER = 20


class Call(NamedTuple):
    """A plain call: the engine's path, the key, and where it comes from."""

    path: str
    key: str
    address: str


class DirectChats:
    """Answers the plain ones; passes everything else on to the application."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._traffic = Traffic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        call = plain_call(scope)
        if call is None:
            await self._application({**scope, TRAFFIC: self._traffic}, receive, send)
            return
        body = await whole_body(receive)
        if body is None:
            return
        answering = asyncio.create_task(self._answer(scope, call, body, send))
        answering.add_done_callback(_heard)  # whoever waits for it below may be cancelled twice
        leaving = asyncio.ensure_future(receive())  # after the body only the news can come that the client has left
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not answering.done():
                answering.cancel()
                await asyncio.wait((answering,))
        if not answering.cancelled():
            answering.result()

    async def _answer(self, scope: Scope, call: Call, body: bytes, send: Send) -> None:
        begun = time.monotonic()
        try:
            reply = await _reply(call, body)
        except Exception as error:
            response: HttpResponseBase = openai_answer(as_pilothouse(error))
        else:
            if reply.chunks is not None:
                self._traffic.count("POST", scope["path"], reply.status_code, time.monotonic() - begun)
                await _stream(openai.headers_of(reply), reply.chunks, send)
                return
            response = openai.response_of(reply)
        self._traffic.count("POST", scope["path"], response.status_code, time.monotonic() - begun)
        await send_response(scope, response, send)


def plain_call(scope: Scope) -> Call | None:
    """What is asked, where it is plainly a script's call; None where Django is to look at it."""
    path = CALLS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
    caller = plain_caller(scope) if path is not None else None
    return None if path is None or caller is None else Call(path, *caller)


def plain_caller(scope: Scope) -> tuple[str, str] | None:
    """The key of a call and where it comes from; None where anything else of it is for Django to look at."""
    if scope.get("query_string") or scope.get("root_path"):
        return None
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in DJANGOS or (name in ONCE and name in headers):
            return None
        headers[name] = value
    key = _key(headers)
    if not key or not _is_short(headers.get(b"content-length", b"")) or not _is_our_host(headers.get(b"host", b"")):
        return None
    return key, str((scope.get("client") or ("",))[0])


def _key(headers: Mapping[bytes, bytes]) -> str:
    """The key as `api.keys` reads it."""
    if key := headers.get(b"x-api-key", b"").decode("latin-1").strip():
        return key
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == BEARER else ""


def _is_short(length: bytes) -> bool:
    most: Any = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return length.isdigit() and len(length) < LONGEST_NUMBER and int(length) <= most


def _is_our_host(host: bytes) -> bool:
    domain, _port = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


async def _reply(call: Call, body: bytes) -> Reply:
    actor = await access.recognise_key(call.key, call.address)
    if actor is None:
        raise not_valid()
    actor.require(Role.USE)
    reply: Reply | None = None
    try:
        async with ThreadSensitiveContext():  # what has to wait for the data base does so in a thread of its own
            reply = await openai.reply_to(actor, call.path, body)
    except BaseException:
        if reply is not None and reply.chunks is not None:  # the client left while that thread ended
            await reply.chunks.aclose()
        raise
    return reply


def _heard(answering: "asyncio.Task[None]") -> None:
    if not answering.cancelled():
        answering.exception()


async def whole_body(receive: Receive) -> bytes | None:
    """None where the client leaves before its end."""
    pieces = []
    while (message := await receive())["type"] != "http.disconnect":
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)
    return None


async def send_response(scope: Scope, response: HttpResponseBase, send: Send) -> None:
    """Sends an answer as Django's middleware would have it, and logs a refusal as Django does."""
    assert isinstance(response, HttpResponse)  # noqa: S101 - streams go the other way
    if response.status_code >= HTTPStatus.BAD_REQUEST:
        log_response("%s: %s", response.reason_phrase, scope["path"], response=response, request=None)
    headers = {**response.headers, "Content-Length": str(len(response.content))}
    await send({"type": "http.response.start", "status": response.status_code, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": response.content})


async def _stream(headers: Mapping[str, str], chunks: Passage, send: Send) -> None:
    try:
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
        async for events in chunks:
            await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body"})
    finally:
        await chunks.aclose()


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    own = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    return [*own, *_guards()]


@cache
def _guards() -> list[tuple[bytes, bytes]]:
    """The headers that Django's middleware gives every answer of ours."""
    request, response = HttpRequest(), HttpResponse()
    for kind in (CSPMiddleware, SecurityMiddleware, XFrameOptionsMiddleware):
        kind(lambda _request: response).process_response(request, response)
    patch_vary_headers(response, ("Cookie",))
    del response["Content-Type"]
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
