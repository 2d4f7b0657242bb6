"""Work that other threads have for the engine's, which owns the model. Runs in the inference process.

A thread that has computed with torch keeps workers of its own. Where a process has more of them than processors, OpenMP
lets all of them sleep after each operation instead of waiting awake for the next, and a step of a small model takes a
third longer. So one thread computes: others hand it their work, or give their workers back (`give_workers_back`).
"""

import ctypes
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from inference.engine.base import Result

_SOFT = 1
"""`omp_pause_soft` of OpenMP 5.0: the workers go, settings stay."""


class Errands:
    """What is to be done; any thread may add to it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, work: Callable[[], Result]) -> Future[Result]:
        """Adds a piece of work. Whoever waits for its outcome in a frame of its own deletes the future there: an error
        that it ends with would keep itself otherwise, and the tensors of all frames that it went through."""
        outcome: Future[Result] = Future()
        self._waiting.append((work, outcome))
        return outcome

    def do_all(self) -> None:
        """Does them in the calling thread, until there is none."""
        while self._waiting:
            _do(*self._waiting.popleft())


def _do(work: Callable[[], Result], outcome: Future[Result]) -> None:
    try:
        outcome.set_result(work())
    except Exception as error:
        outcome.set_exception(error)
        del outcome  # see `Errands.add`


def give_workers_back() -> None:
    """Ends the workers that the calling thread has for computing; it gets new ones where it computes again.

    Without an OpenMP that can do this nothing happens.
    """
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_SOFT)
