"""An engine's stream on its way to a client. Runs in the web process, on the server's loop."""

import asyncio
import json
from typing import Protocol, Self

import aiohttp

from controlplane.services.answer_meter import StreamMeter

LOST = {
    "message": "The engine ended before the answer did.", "type": "server_error", "param": None, "code": "engine_lost",
}  # fmt: skip


class Over(Protocol):
    """Hears, once, that the passage is over; `failed`: the engine ended before its answer did."""

    def __call__(self, *, failed: bool) -> None:
        """See the class."""


class Source:
    """An answer's bytes as they come; b"" at its end. What had come before an engine broke off is told before that is.

    aiohttp would tell of the break at once, and drop the rest.
    """

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._content = answer.content
        self._broke_off: aiohttp.ClientError | None = None

    async def read(self) -> bytes:
        """Whatever is there next. Raises aiohttp.ClientError."""
        if self._broke_off is not None:
            raise self._broke_off
        try:
            try:
                return await self._content.readany()
            except RuntimeError as error:  # how it refuses to wait on a connection that ended an instant ago
                raise aiohttp.ClientPayloadError(str(error)) from error
        except aiohttp.ClientError as error:
            self._broke_off = error
            self._content.set_exception(None)  # type: ignore[arg-type] # it is raised before anything is looked at
            if left := self._content.read_nowait():
                return left
            raise

    async def whole(self) -> bytes:
        """All of it. Raises aiohttp.ClientError."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)


class Passage:
    """The events of one answer. An engine that dies in the middle ends them with an error event, never with silence.

    Whoever takes it exhausts it, or closes it: `aclose` on its loop, `close` from any thread.
    """

    def __init__(
        self, answer: aiohttp.ClientResponse, source: Source, first: bytes, meter: StreamMeter, over: Over
    ) -> None:
        self._answer = answer
        self._source = source
        self._first = first
        self._meter = meter
        self._over = over
        self._is_over = False
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def opened(cls, answer: aiohttp.ClientResponse, meter: StreamMeter, over: Over) -> Self:
        """A passage whose first bytes are here. Raises aiohttp.ClientError where the engine ends before them."""
        source = Source(answer)
        first = await source.read()
        if not first:
            raise aiohttp.ServerDisconnectedError("The stream ended before it began.")
        return cls(answer, source, first, meter, over)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next whole events."""
        while not self._is_over:
            try:
                data = self._first or await self._source.read()
                self._first = b""
            except aiohttp.ClientError:
                self._end(failed=True)
                return f"data: {json.dumps({'error': LOST})}\n\n".encode()
            except BaseException:
                self._end()
                raise
            if not data:
                self._end()
                if rest := self._meter.rest():
                    return rest
                break
            if events := self._meter.feed(data):
                return events
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends it, and with it what the engine still generates. Twice is once."""
        self._end()

    def close(self) -> None:
        """The same from any thread; it is done soon."""
        if not self._is_over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self, *, failed: bool = False) -> None:
        if self._is_over:
            return
        self._is_over = True
        try:
            self._over(failed=failed)
        finally:
            self._answer.close()
