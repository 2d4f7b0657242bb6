"""Who a process is, beyond its number, and how to signal it without ever hitting a stranger.

Runs in the agent and in supervisors; standard library only. A pid is used again after its process has died, so a
process is known by three things: its pid, the boot of the machine, and the clock tick at which it started (field 22
of `/proc/PID/stat`, see proc_pid_stat(5)).
"""

import errno
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of one boot; equal only to itself. `start_ticks` counts clock ticks since boot."""

    pid: int
    boot_id: str
    start_ticks: int


@cache
def boot_id() -> str:
    """The id that the kernel drew when this machine started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a process that exists now (a zombie too), or None."""
    stat = _read_stat(pid)
    return None if stat is None else ProcessIdentity(pid, boot_id(), stat.start_ticks)


def is_same(identity: ProcessIdentity) -> bool:
    """Whether the process with this pid is still the one that was identified."""
    return identify(identity.pid) == identity


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether it is still the same process and no zombie: a zombie holds nothing and only waits for its parent."""
    stat = _read_stat(identity.pid)
    return stat is not None and is_same(identity) and stat.state not in "ZX"


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal; False for a process that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def send(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signals one process, if it is still the same one and no zombie; returns whether it was.

    Raises PermissionError for a process of another user.
    """
    if identity.pid <= 1:
        return False
    handle = None
    try:
        # The handle holds on to the process that has the pid now, so nothing can change between check and signal.
        handle = _open_handle(identity.pid)
        if not is_alive(identity):
            return False
        if handle is None:
            os.kill(identity.pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def send_to_group(leader: ProcessIdentity, number: signal.Signals) -> bool:
    """Signals the process group that `leader` leads, if it is still the same process; returns whether it was."""
    if leader.pid <= 1 or not is_same(leader):
        return False
    try:
        if os.getpgid(leader.pid) != leader.pid:
            return False
        os.killpg(leader.pid, number)
    except ProcessLookupError:
        return False
    return True


class _Stat(NamedTuple):
    state: str
    start_ticks: int


def _read_stat(pid: int) -> _Stat | None:
    if pid <= 0:
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may hold spaces and parentheses itself.
    fields = stat[stat.rfind(")") + 2 :].split()
    return _Stat(state=fields[0], start_ticks=int(fields[19]))


def _open_handle(pid: int) -> int | None:
    """A pidfd, or None where the kernel (before 5.3) or a container's filter has none."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise
