"""The web process of a home: who holds the place, and how to end it. Runs in the web process and in commands.

The place is a POSIX record lock on `web.lock`. The kernel itself names its holder (F_GETLK, see fcntl(2)) and lets go
of it when that process ends, however it ends: no stale file, no pid of a stranger. On SQLite one process has the place;
on PostgreSQL, where a lease says who dispatches (`controlplane.leading`), several share it.
"""

import fcntl
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = "web.lock"
WAIT_SECONDS = 0.02
STRUCT_FLOCK = struct.Struct("hhqqi")
"""`l_type, l_whence, l_start, l_len, l_pid` of Linux on 64-bit machines."""


class WebRunsAlreadyError(Exception):
    """Another web process dispatches for this home."""


@contextmanager
def sole_web_process(home: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds the place, with others that share it or alone. Raises WebRunsAlreadyError, with the holder's pid.

    Such a lock is the process's: while it is held, nothing else in this process may open `web.lock`.
    """
    descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WebRunsAlreadyError(
                f"A web process (pid {_holder(descriptor)}) already serves {home}: stop it with bin/up --stop-all, "
                "or give another --home."
            ) from None
        yield
    finally:
        os.close(descriptor)


def holder(home: Path) -> int | None:
    """The pid of a web process of this home, or None when there is none. Not for a web process itself."""
    try:
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def end_web_process(home: Path, timeout_seconds: float = 30.0) -> int | None:
    """Asks the web process of this home to end and waits for it. Returns its pid, or None when there was none.

    Raises TimeoutError when it doesn't end.
    """
    pid = holder(home)
    if pid is None:
        return None
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        # From here on the handle stands for one process; if that still has the place, it is the right one.
        if holder(home) == pid:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        return pid
    finally:
        os.close(handle)
    deadline = time.monotonic() + timeout_seconds
    while holder(home) == pid:
        if time.monotonic() > deadline:
            raise TimeoutError(f"The web process (pid {pid}) has not ended within {timeout_seconds:g} s.")
        time.sleep(WAIT_SECONDS)
    return pid


def _holder(descriptor: int) -> int | None:
    asked = STRUCT_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = STRUCT_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK or pid <= 1 else pid
