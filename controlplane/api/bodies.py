"""Daphne's connections, with a limit on a request's body that holds before the body is read.

Runs in the web process; `manage.py serve` calls `limit_bodies()`. Twisted receives a whole body, and takes a multipart
one apart in memory, before an ASGI application hears of the request: a limit in Django, or around the application,
would come too late. So this one stands where the headers have just been read. The client gets its answer at once; what
it goes on sending is thrown away for a moment, since closing at once would cost most clients the answer.
"""

from typing import Any

import daphne.server
from daphne.http_protocol import HTTPFactory

from controlplane.api.limits import MAX_BODY_BYTES, refusal
from controlplane.api.pace import PacedRequest

LINGER_SECONDS = 5


def _response(path: str) -> bytes:
    body = refusal(path)
    head = (
        "HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class LimitedRequest(PacedRequest):
    """A request of daphne's that reads no body beyond MAX_BODY_BYTES, and leaves forms to Django."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)
        self._refused = False
        self._received_bytes = 0

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        """The headers are here: the length as declared, None for a chunked body."""
        super().gotLength(length)
        if length is not None and length > MAX_BODY_BYTES:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """A piece of the body."""
        if self._refused:
            return
        self._received_bytes += len(data)
        if self._received_bytes > MAX_BODY_BYTES:
            self._refuse()
            return
        super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 - Twisted's name
        """The body is here, or has been thrown away."""
        if self._refused:
            self.channel.loseConnection()
            return
        super().requestReceived(command, path, version)

    def _refuse(self) -> None:
        self._refused = True
        self.requestHeaders.removeHeader(b"Expect")  # else the channel would ask for the body after all
        path = getattr(self.channel, "_path", b"")  # the request itself is told its path when its body is here
        self.channel.transport.write(_response(path.decode("latin-1")))
        self.channel.callLater(LINGER_SECONDS, self.channel.transport.loseConnection)


class LimitedFactory(HTTPFactory):  # type: ignore[misc]
    """Makes connections whose requests are limited."""

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        """One connection."""
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = LimitedRequest
        return protocol


def limit_bodies() -> None:
    """Has every daphne server that is run from now on use LimitedFactory: the server names its factory itself."""
    daphne.server.HTTPFactory = LimitedFactory
