"""From the engine's thread to the event loop: the chunks of one HTTP request, in the order they come.

Runs in the inference process.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Self

from inference.engine.base import (
    Deliver,
    Delivery,
    Engine,
    EngineClosedError,
    EngineError,
    GenerationChunk,
    GenerationRequest,
)


class Submission:
    """One or several prompts that are answered together. Close it, or what runs goes on for nobody."""

    def __init__(self, engine: Engine, requests: Sequence[GenerationRequest]) -> None:
        """Queues all of them or none. Raises what `Engine.submit` raises."""
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._deliveries: asyncio.Queue[tuple[int, Delivery]] = asyncio.Queue()
        self._unfinished = len(requests)
        self._numbers: list[int] = []
        try:
            for position, request in enumerate(requests):
                self._numbers.append(engine.submit(request, self._deliver_to(position)))
        except EngineError:
            self.close()
            raise

    async def __aiter__(self) -> AsyncIterator[tuple[int, GenerationChunk]]:
        """Yields (position of the prompt, chunk). Raises the error that a prompt ends with."""
        while self._unfinished:
            position, delivery = await self._deliveries.get()
            if isinstance(delivery, EngineError):
                raise delivery
            if delivery.finish_reason == "cancelled":
                raise EngineClosedError("The engine is shutting down and could not finish this answer.")
            if delivery.usage is not None:
                self._unfinished -= 1
            yield position, delivery

    def close(self) -> None:
        """Cancels what is not finished."""
        for number in self._numbers:
            self._engine.cancel(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deliver_to(self, position: int) -> Deliver:
        def deliver(delivery: Delivery) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._deliveries.put_nowait, (position, delivery))

        return deliver
