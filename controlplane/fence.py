"""What keeps a dispatcher that has lost its place from acting. Used by the threads of a dispatcher on PostgreSQL.

A thread that acts for a lease runs `behind` its fence. There each transaction first asks, inside itself, whether the
lease is still held (`controlplane.postgres`), and each statement and each word to an agent asks the clock. So a process
that was stopped, and wakes after another took its place, does nothing more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class LeaseLostError(BaseException):
    """Another process dispatches now, or this one could not renew its lease in time.

    As asyncio's CancelledError it is no Exception: loops that live through every fault end here.
    """


class Fence(Protocol):
    """A held lease."""

    def check_clock(self) -> None:
        """Raises LeaseLostError where the lease has run out by this machine's clock. Asks nobody."""

    def check_row(self, raw_connection: Any) -> None:
        """Raises LeaseLostError where the data base says so. Inside a transaction that no other one passes."""


_fence: ContextVar[Fence | None] = ContextVar("_fence", default=None)


def current() -> Fence | None:
    """The fence behind which this thread, or task, works."""
    return _fence.get()


def check() -> None:
    """Raises LeaseLostError where this thread acts for a lease that has run out."""
    if (held := _fence.get()) is not None:
        held.check_clock()


@contextmanager
def behind(fence: Fence | None) -> Iterator[None]:
    """Within it nothing is written unless the lease is held. None: nothing is asked."""
    token = _fence.set(fence)
    try:
        yield
    finally:
        _fence.reset(token)
