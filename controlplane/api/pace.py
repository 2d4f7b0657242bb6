"""Daphne's answers, no faster than their client takes them.

Runs in the web process; `manage.py serve` runs a `PacedServer`. Daphne hands all that an application sends to Twisted
at once, which keeps it in memory until it is on the wire: a download would lie there as a whole. Here the application
waits while the connection's buffer is full. Twisted says when: a request is the producer of its answer (IPushProducer).
"""

import asyncio
from typing import Any

from daphne.http_protocol import WebRequest
from daphne.server import Server

CLOSE_SECONDS = 10.0
"""How long requests that are under way may hold up the server's end."""


class PacedRequest(WebRequest):  # type: ignore[misc]
    """A request of daphne's that knows whether its client keeps up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def wait_for_room(self) -> None:
        """Returns once there is room for more, or nobody left to send it to."""
        await self._has_room.wait()

    def handle_reply(self, message: dict[str, Any]) -> None:
        """A message of the application's."""
        if message.get("type") == "http.response.start" and self.channel is not None and self.producer is None:
            self.registerProducer(self, True)
        super().handle_reply(message)

    def finish(self) -> None:
        """The answer is whole."""
        if self.producer is not None:
            self.unregisterProducer()
        super().finish()

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - Twisted's name
        """The client has gone."""
        self._has_room.set()
        super().connectionLost(reason)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The buffer is full."""
        self._has_room.clear()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The buffer is empty."""
        self._has_room.set()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The connection is being closed."""
        self._has_room.set()


class PacedServer(Server):  # type: ignore[misc]
    """A server of daphne's whose applications wait, in `send`, for clients that are slower than they."""

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Sends a message; returns when the next may come."""
        await super().handle_reply(protocol, message)
        if isinstance(protocol, PacedRequest) and message.get("more_body"):
            await protocol.wait_for_room()

    def kill_all_applications(self) -> Any:
        """Ends what still answers. A view's thread can't be cancelled: it is waited for CLOSE_SECONDS at most."""
        from twisted.internet import reactor  # not before `serve` has chosen one

        return super().kill_all_applications().addTimeout(CLOSE_SECONDS, reactor)
