"""One of the processes that train a run together: the verb `rank`, which torchrun's agent calls.

What it has come to is left in a file beside the spec and told by the job's own process. The first rank writes the
events; the others' are dropped.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TypedDict

from monitoring.attempt import EXIT_FAULT, JobFaultError, JobPausedError
from monitoring.events import EVENTS_FILE, RESERVE_FILE, Body, Event, EventWriter, JobSpec, Level
from monitoring.files import write_json
from training import checkpoints
from training.config.loader import parse_config
from training.wishes import Wishes

RENDEZVOUS_FILE = "rendezvous"
PR_SET_PDEATHSIG = 1


class Outcome(TypedDict):
    """How one process ended. `code` is empty where it went well."""

    code: str
    message: str
    fix: str
    needed_bytes: int | None
    is_paused: bool
    values: dict[str, Any]
    time: float


class Unheard(EventWriter):
    """Takes events of a rank that doesn't lead, and writes none."""

    def __init__(self) -> None:
        """Opens no file."""

    def emit(self, body: Body) -> Event:
        """Drops the event."""
        return Event(seq=0, time=time.time(), body=body)

    def log(self, text: str, level: Level = "info") -> None:
        """Drops the line."""

    def catch_up(self) -> None:
        """There is nothing to count on from."""

    def close(self) -> None:
        """There is nothing to close."""


def outcome_file(folder: Path, rank: int) -> Path:
    """Where the process of that number says how it ended."""
    return folder / f"rank-{rank}.json"


def main(spec_path: Path, parent: int, resume: Path | None) -> int:
    """Trains as one of several, from the checkpoint `resume`; returns the exit code of the process.

    `parent` is the pid of the job's own process.
    """
    _end_with(parent)
    folder, rank = spec_path.parent, int(os.environ["RANK"])
    outcome = Outcome(code="", message="", fix="", needed_bytes=None, is_paused=False, values={}, time=0.0)
    try:
        with EventWriter(folder / EVENTS_FILE) if rank == 0 else Unheard() as events:
            outcome["values"] = _train(JobSpec.read(spec_path), folder, events, resume)
    except JobPausedError:
        outcome["is_paused"] = True
    except JobFaultError as fault:
        told: Outcome = {**outcome, "code": fault.code, "message": fault.message, "fix": fault.fix}
        outcome = {**told, "needed_bytes": fault.needed_bytes}
    except Exception as error:  # the edge of the process: what nobody foresaw must still be told
        with contextlib.suppress(OSError):  # the log may be on a full disk
            traceback.print_exc(file=sys.stderr)
        message = f"{type(error).__name__}: {error}"
        outcome = {**outcome, "code": "internal", "message": message, "fix": "See the job's log."}
    outcome["time"] = time.time()
    if outcome["code"]:
        (folder / RESERVE_FILE).unlink(missing_ok=True)  # on a full disk nobody would hear of it otherwise
    write_json(outcome_file(folder, rank), outcome)
    return EXIT_FAULT if outcome["code"] else 0


def _train(spec: JobSpec, folder: Path, events: EventWriter, resume: Path | None) -> dict[str, Any]:
    from training.distributed.ranks import Ranks
    from training.engine import TrainerEngine

    ranks = Ranks.join(None if spec.meeting else folder / RENDEZVOUS_FILE)
    if spec.meeting:
        resume = _agree(spec, resume, ranks.shared(_step(resume)))
    engine = TrainerEngine(spec, events, Wishes(folder), resume, ranks)
    return engine.run_job(parse_config(spec.config)).to_values()


def _step(resume: Path | None) -> int:
    return checkpoints.read_manifest(resume).step if resume is not None else 0


def _agree(spec: JobSpec, resume: Path | None, step: int) -> Path | None:
    """The checkpoint that the first process goes on from, as this host has it. Raises JobFaultError where it hasn't."""
    if _step(resume) == step:
        return resume
    path = checkpoints.path_of(Path(spec.output_dir) / checkpoints.FOLDER, step)
    if step and not path.is_dir():
        message = f"{spec.host} doesn't have the checkpoint of step {step} from which the run goes on."
        raise JobFaultError("checkpoint_missing", message, "Let the hosts share their files, or start the run anew.")
    return path if step else None


def _end_with(parent: int) -> None:
    """A job that is killed must not leave processes on its GPUs: torchrun starts each in a session of its own."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_FAULT)
