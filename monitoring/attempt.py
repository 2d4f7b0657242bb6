"""The process side of an attempt: read the spec, say what happens, end with a code that tells how it went.

Runs in every job process; standard library only. Each verb of `python -m training` and `python -m inference` is one
function that `run_attempt` calls.
"""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from monitoring.events import EVENTS_FILE, EXIT_PAUSED, RESERVE_FILE, Error, EventWriter, JobSpec, Result, Started

EXIT_FAULT = 1
EXIT_USAGE = 2
"""The call can't be understood."""

RANK_DIED = "rank_died"
"""Code of a fault: one of the attempt's several processes has died without a word, as an attempt's only one may."""

RESERVE_BYTES = 64 << 10
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class JobFaultError(Exception):
    """The job can't go on, for a reason that its owner can mend. `needed_bytes`: so much of the disk must be free."""

    def __init__(self, code: str, message: str, fix: str = "", *, needed_bytes: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.needed_bytes = needed_bytes


class JobPausedError(Exception):
    """The job was told to pause and has left a checkpoint."""


Work = Callable[[JobSpec, EventWriter, Path], dict[str, Any]]
"""Takes the spec, the event writer and the path of the spec; returns the values of the `result` event."""


class Reserve:
    """Room on the attempt's disk, let go of before the last word: on a full disk nobody would hear why a job ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE_FILE

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError), self._path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)
        return self

    def let_go(self) -> None:
        """Gives the room back to the disk."""
        self._path.unlink(missing_ok=True)

    def __exit__(self, *_error: object) -> None:
        self.let_go()


def run_attempt(spec_path: Path, work: Work) -> int:
    """Runs `work` between a `started` and a `result` or `error` event; returns the exit code of the process."""
    with EventWriter(spec_path.parent / EVENTS_FILE) as events, Reserve(spec_path.parent) as reserve:
        events.emit(Started(pid=os.getpid()))
        last: Result | Error
        try:
            spec = JobSpec.read(spec_path)
            last = Result(values=work(spec, events, spec_path))
        except JobPausedError:
            return EXIT_PAUSED
        except JobFaultError as fault:
            last = Error(fault.code, fault.message, fault.fix, fault.needed_bytes)
        except Exception as error:  # the edge of the process: what nobody foresaw must still be told
            with contextlib.suppress(OSError):
                traceback.print_exc(file=sys.stderr)
            last = _unforeseen(error)
        reserve.let_go()
        events.emit(last)
        return EXIT_FAULT if isinstance(last, Error) else 0


def _unforeseen(error: Exception) -> Error:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return Error(
            code="disk_full",
            message=f"The disk became full under the job: {error}",
            fix="Free some space (Settings, Storage), then start it again.",
        )
    return Error(code="internal", message=f"{type(error).__name__}: {error}", fix="See the job's log.")
