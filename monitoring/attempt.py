"""The process side of an attempt: read the spec, say what happens, end with a code that tells how it went.

Runs in every job process; standard library only. Each verb of `python -m training` and `python -m inference` is one
function that `run_attempt` calls.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitoring.events import EVENTS_FILE, EXIT_PAUSED, Error, EventWriter, JobSpec, Result, Started

EXIT_FAULT = 1
EXIT_USAGE = 2
"""The call can't be understood."""


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


def run_attempt(spec_path: Path, work: Work) -> int:
    """Runs `work` between a `started` and a `result` or `error` event; returns the exit code of the process."""
    with EventWriter(spec_path.parent / EVENTS_FILE) as events:
        events.emit(Started(pid=os.getpid()))
        try:
            spec = JobSpec.read(spec_path)
            values = work(spec, events, spec_path)
        except JobPausedError:
            return EXIT_PAUSED
        except JobFaultError as fault:
            events.emit(Error(fault.code, fault.message, fault.fix, fault.needed_bytes))
            return EXIT_FAULT
        except Exception as error:  # the edge of the process: what nobody foresaw must still be told
            traceback.print_exc(file=sys.stderr)
            events.emit(Error(code="internal", message=f"{type(error).__name__}: {error}", fix="See the job's log."))
            return EXIT_FAULT
        events.emit(Result(values=values))
        return 0
