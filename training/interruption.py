"""What a signal does to a job that keeps no checkpoint of its own: it ends at once and leaves nothing half-written.

Runs in the job processes of the verbs `validate` and `fetch`. The signal becomes an exception in the main thread, so
that every `with` and `finally` on the way out cleans up.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from monitoring.attempt import JobFaultError, JobPausedError
from monitoring.events import Wish


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block PAUSE raises JobPausedError (a later attempt starts over) and STOP a JobFaultError `stopped`.

    Only the first signal counts: a second one must not interrupt the cleaning up. Main thread only.
    """
    told = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            return
        told = True
        if number == Wish.PAUSE.signal:
            raise JobPausedError
        raise JobFaultError("stopped", "The job was stopped before its end; nothing was published.", "Start it again.")

    before = {wish.signal: signal.signal(wish.signal, interrupt) for wish in (Wish.PAUSE, Wish.STOP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
