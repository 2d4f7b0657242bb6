"""Calls that may hang, made in a thread of their own, each with a deadline.

Runs in the agent; standard library only.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class LateError(Exception):
    """A call ran past its deadline, or one before it still does."""


class DeadlineCaller:
    """Runs calls one after the other in a daemon thread and gives each a deadline. Thread-safe.

    While a call hangs, further ones fail at once: what hangs has global locks, so they could only queue up. Once it
    comes back, calls are made again. A thread that hangs for good is a daemon and holds nobody up.
    """

    def __init__(self, name: str, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self._late: queue.SimpleQueue[Any] | None = None
        """Where the answer of a call that ran past its deadline will come in one day."""
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def call(self, question: Callable[[], T]) -> T:
        """What `question` returns or raises. Raises LateError past the deadline."""
        answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put((question(), None))
            except Exception as error:
                answers.put((None, error))  # raised again in the caller's thread

        with self._busy:
            if self._late is not None and self._late.empty():
                raise LateError
            self._late = None
            self._calls.put(answer)
            try:
                value, error = answers.get(timeout=self._deadline_seconds)
            except queue.Empty:
                self._late = answers
                raise LateError from None
        if error is not None:
            raise error
        return value  # type: ignore[return-value] # None only where T allows it

    def post(self, work: Callable[[], None]) -> None:
        """Has `work` done when the thread is free; nobody waits for it. A call that comes later waits behind it."""
        self._calls.put(work)

    def close(self, wait_seconds: float = 0.0) -> None:
        """Lets the thread end, and waits a while for it; nothing can be called afterwards."""
        self._calls.put(None)
        self._thread.join(wait_seconds)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:  # posted work alone comes here; the thread must live
                log.exception("work in the background failed")
