"""The folders of attempts under `PILOTHOUSE_HOME/jobs`, as the agent sees them: paths, lock, state.

Runs in the agent. The lock and two files say everything: `process.json` means that the attempt has been started,
`exit.json` how it ended, and the lock is held as long as its supervisor or its job's process lives.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitoring.events import EVENTS_FILE, EXIT_FILE, LOG_FILE, PROCESS_FILE, SECRET_FILE, SPEC_FILE
from monitoring.processes import ProcessIdentity
from monitoring.wire import AgentFaultError, AttemptState, ExitRecord, ProcessRecord

LOCK_FILE = "lock"
LOCK_PATIENCE_SECONDS = 1.0
"""A reader that asks whether a lock is held holds it itself for a moment; a launch waits that long for it."""


def check_id(name: str, value: object) -> int:
    """The one gate through which numbers from outside become paths. Raises AgentFaultError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
        raise AgentFaultError("bad_call", f"{name} must be a positive whole number, not {value!r}.")
    return value


class AttemptFolder:
    """`jobs/ID/attempts/N` of one home."""

    def __init__(self, home: Path, job_id: int, attempt: int) -> None:
        self.job_id = check_id("job_id", job_id)
        self.attempt = check_id("attempt", attempt)
        self.job_path = home / "jobs" / str(self.job_id)
        self.path = self.job_path / "attempts" / str(self.attempt)
        self.spec = self.path / SPEC_FILE
        self.secret = self.path / SECRET_FILE
        self.events = self.path / EVENTS_FILE
        self.log = self.path / LOG_FILE

    @property
    def key(self) -> tuple[int, int]:
        """(job id, attempt)."""
        return self.job_id, self.attempt

    def siblings(self) -> list["AttemptFolder"]:
        """All attempts of this job on this host, this one included if it exists, by number."""
        home = self.job_path.parent.parent
        return [AttemptFolder(home, self.job_id, number) for number in _numbers(self.job_path / "attempts")]

    # --- The lock ---

    def is_held(self) -> bool:
        """Whether a supervisor or a job's process holds the lock now."""
        try:
            descriptor = os.open(self.path / LOCK_FILE, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two readers don't take each other for a holder.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def take_lock(self) -> int | None:
        """A descriptor that holds the lock, or None where another process holds it."""
        descriptor = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    return None
                time.sleep(0.005)
            else:
                return descriptor

    # --- What the files say ---

    def started_spec(self) -> dict[str, Any] | None:
        """`spec.json` as it stands there, of whichever version, or None."""
        spec: dict[str, Any] | None = _read_json(self.spec)
        return spec

    def process(self) -> ProcessRecord | None:
        """`process.json`, or None before the supervisor has written it."""
        record: ProcessRecord | None = _read_json(self.path / PROCESS_FILE)
        return record

    def job_identity(self) -> ProcessIdentity | None:
        """Who the job's process is (it may have ended), or None where it hasn't been started."""
        record = self.process()
        if record is None or record["pid"] is None or record["start_ticks"] is None:
            return None
        return ProcessIdentity(record["pid"], record["boot_id"], record["start_ticks"])

    def supervisor_identity(self) -> ProcessIdentity | None:
        """Who the supervisor is (it may be gone)."""
        record = self.process()
        if record is None:
            return None
        return ProcessIdentity(record["supervisor_pid"], record["boot_id"], record["supervisor_start_ticks"])

    def exit(self) -> ExitRecord | None:
        """`exit.json`, or None."""
        record: ExitRecord | None = _read_json(self.path / EXIT_FILE)
        return record

    def state(self) -> tuple[AttemptState, ExitRecord | None]:
        """Where the attempt stands, and how it ended if it has.

        The lock is looked at first: the record is written before the lock is let go, so a free lock without a record
        means that nobody will ever write one.
        """
        held = self.is_held()
        record = self.exit()
        if record is not None:
            return "exited", record
        if not held:
            return "lost", None
        return ("launching" if self.job_identity() is None else "running"), None


def all_attempts(home: Path) -> Iterator[AttemptFolder]:
    """Every attempt under a home."""
    for job_id in _numbers(home / "jobs"):
        for attempt in _numbers(home / "jobs" / str(job_id) / "attempts"):
            yield AttemptFolder(home, job_id, attempt)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file for the length of a block; waits for whoever holds it, thread or process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _numbers(folder: Path) -> list[int]:
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and int(name) > 0)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
