"""Runs the verbs of `python -m training` as a real process, as the supervisor would, and reads what it said."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from monitoring.events import (
    EVENTS_FILE,
    SECRET_FILE,
    SPEC_FILE,
    Error,
    Inputs,
    JobSpec,
    Result,
    decode_event,
    read_lines,
)
from monitoring.files import write_json

DEADLINE_SECONDS = 120.0
BodyT = TypeVar("BodyT")


@dataclass(frozen=True)
class Attempt:
    """An attempt's folder, as it lies below `jobs/ID/attempts/N`."""

    folder: Path
    verb: str

    def start(self, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts the job; its output goes to `log.txt`."""
        command = [sys.executable, "-m", "training", self.verb, str(self.folder / SPEC_FILE)]
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
            )

    def run(self, env: Mapping[str, str] | None = None, *, deadline_seconds: float = DEADLINE_SECONDS) -> int:
        """Runs the job to its end; returns its exit code."""
        process = self.start(env)
        try:
            return process.wait(deadline_seconds)
        finally:
            process.kill()
            process.wait()

    def all(self, kind: type[BodyT]) -> list[BodyT]:
        """The events of one kind so far, in order."""
        lines, _ = read_lines(self.folder / EVENTS_FILE, 0)
        bodies = [decode_event(line).body for line in lines.splitlines()]
        return [body for body in bodies if isinstance(body, kind)]

    def result(self) -> dict[str, Any]:
        """The values of its one result event."""
        results = self.all(Result)
        assert len(results) == 1, (self.folder / "log.txt").read_text() + repr(self.all(Error))
        return results[0].values

    def error(self) -> Error:
        """Its one error event."""
        errors = self.all(Error)
        assert len(errors) == 1, (self.folder / "log.txt").read_text()
        return errors[0]


def make_attempt(
    folder: Path,
    verb: str,
    *,
    config: dict[str, Any],
    inputs: Inputs | None = None,
    model_dir: Path | None = None,
    number: int = 1,
    secrets: dict[str, str] | None = None,
) -> Attempt:
    """Writes the spec (and the secrets) of an attempt to `folder`."""
    spec = JobSpec(
        job_id=1,
        attempt=number,
        kind=verb,
        verb=verb,
        host="test",
        output_dir=str(folder),
        inputs=inputs or Inputs(),
        config=config,
        model_dir=str(model_dir or ""),
    )
    write_json(folder / SPEC_FILE, spec.to_json())
    if secrets:
        write_json(folder / SECRET_FILE, secrets, mode=0o600)
    return Attempt(folder, verb)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Returns as soon as the condition holds; fails when it doesn't in `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
