"""How large a request's body may be. Runs in the web process, around the ASGI application.

`bodies.py` holds the same limit inside daphne, which reads a body before the application hears of the request. This one
is for every other ASGI server.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.api.errors import openai_answer, rest_answer
from controlplane.errors import TooLargeError
from controlplane.services.dataset_intake import OTHER_WAY, SMALL_FILE_BYTES

MAX_BODY_BYTES = SMALL_FILE_BYTES + (1 << 20)
"""The largest form that is taken, with its frame. Everything else is smaller (a part of an upload has 4 MiB)."""

OPENAI_PATHS = ("/v1/", "/api/v1/")
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


def refusal(path: str) -> bytes:
    """The body of the answer to a body that is too large, in the shape of the API that `path` belongs to."""
    error = TooLargeError(f"The body is larger than {SMALL_FILE_BYTES >> 20} MB. {OTHER_WAY}")
    return (openai_answer if path.startswith(OPENAI_PATHS) else rest_answer)(error).content


class BodyLimit:
    """Answers 413 to a request whose declared length is beyond MAX_BODY_BYTES; passes every other one on."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if not _is_too_large(scope):
            await self.application(scope, receive, send)
            return
        body = refusal(str(scope.get("path", "")))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})


def _is_too_large(scope: Scope) -> bool:
    length = next((value for name, value in scope.get("headers", ()) if name == b"content-length"), b"")
    return length.isdigit() and int(length[:20]) > MAX_BODY_BYTES
