"""Forms of answers made ready beside the event loop. Runs in the inference process."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from inference.engine.base import Engine, QueueFullError
from inference.engine.constraints import Constraint

WORKERS = 2
MOST_WAITING = 16


class Compiler:
    """Threads of its own, so that a form that takes long holds up no prompt, and a queue that ends somewhere."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="forms")
        self._in_hand = 0

    async def prepare(self, constraint: Constraint) -> None:
        """Makes a constraint ready. Raises InvalidRequestError as the engine does, and QueueFullError."""
        if self._in_hand >= WORKERS + MOST_WAITING:
            raise QueueFullError(f"{MOST_WAITING} forms of answers wait to be made ready already; try again shortly.")
        self._in_hand += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._engine.prepare, constraint)
        finally:
            self._in_hand -= 1
