"""One node of a fleet a home: who holds the place, and how to end it. Runs in the commands of `ray_node`.

A POSIX record lock, whose holder the kernel names (F_GETLK, see fcntl(2)), as in `controlplane.sole`.
"""

import fcntl
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = "ray-node.lock"
WAIT_SECONDS = 0.05
STRUCT_FLOCK = struct.Struct("hhqqi")


class PlaceTakenError(Exception):
    """Another process has this home's place in a fleet."""


@contextmanager
def sole_node(home: Path) -> Iterator[None]:
    """Holds the place. Raises PlaceTakenError."""
    descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaceTakenError(f"{home} is in a fleet already (pid {_holder(descriptor)}).") from None
        yield
    finally:
        os.close(descriptor)


def holder(home: Path) -> int | None:
    """The pid of whoever holds the place."""
    try:
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def end_holder(home: Path, timeout_seconds: float) -> int | None:
    """Asks the holder to end and waits for it; its pid, or None where there was none. Raises TimeoutError."""
    pid = holder(home)
    if pid is None:
        return None
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if holder(home) == pid:  # the handle stands for one process, and that is the right one
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        return pid
    finally:
        os.close(handle)
    deadline = time.monotonic() + timeout_seconds
    while holder(home) == pid:
        if time.monotonic() > deadline:
            raise TimeoutError(f"The node of the fleet (pid {pid}) has not ended within {timeout_seconds:g} s.")
        time.sleep(WAIT_SECONDS)
    return pid


def _holder(descriptor: int) -> int | None:
    asked = STRUCT_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = STRUCT_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK or pid <= 1 else pid
