"""What a signal does to a job that keeps no checkpoint of its own: it ends at once and leaves nothing half-written.

Runs in the job processes of the verbs `validate` and `fetch`. The signal becomes an exception in the main thread, so
that every `with` and `finally` on the way out cleans up.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from monitoring.attempt import JobFaultError, JobPausedError
from monitoring.events import Wish

NUDGE_SECONDS = 0.05


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block PAUSE raises JobPausedError (a later attempt starts over) and STOP a JobFaultError `stopped`.

    Only the first signal counts: a second one must not interrupt the cleaning up. Main thread only.
    """
    told = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            return
        told.set()
        if number == Wish.PAUSE.signal:
            raise JobPausedError
        raise JobFaultError("stopped", "The job was stopped before its end; nothing was published.", "Start it again.")

    before = {wish.signal: signal.signal(wish.signal, interrupt) for wish in (Wish.PAUSE, Wish.STOP)}
    try:
        with _main_thread_woken(frozenset(before), told):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _main_thread_woken(numbers: frozenset[signal.Signals], told: threading.Event) -> Iterator[None]:
    """Inside the block a signal ends what the main thread waits for in the kernel, whichever thread got it.

    Any thread may get it when all were stopped before, as at power-off; only the main thread runs Python's handlers,
    and one that waits for a pipe or a disk isn't woken by another's signal.
    """
    main = threading.get_ident()
    heard, hears = socket.socketpair()
    hears.setblocking(False)

    def wake() -> None:
        while number := heard.recv(1):
            while number[0] in numbers and not told.wait(NUDGE_SECONDS):
                signal.pthread_kill(main, number[0])

    waker = threading.Thread(target=wake, daemon=True)
    before = signal.set_wakeup_fd(hears.fileno(), warn_on_full_buffer=False)
    waker.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        hears.close()
        waker.join()  # from here on it kills nobody
        heard.close()
