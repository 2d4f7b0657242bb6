"""`python -m training train --dataset FILE --model DIR …`: a run without the control plane, watched in a terminal.

The same spec, engine, events, checkpoints and model as a run that the agent starts; the run's folder holds

    dataset/  attempts/N/{spec.json, events.jsonl, log.txt, exit.json}  checkpoints/step-N/  model/

Runs as the training process itself. Ctrl-C once is the wish PAUSE, twice ends at once. Exit codes are those of every
job (`monitoring.attempt`): 0 done, 1 a fault, 75 paused with a checkpoint; 2 is a call that can't be understood, 130 an
end at once.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from monitoring.attempt import EXIT_FAULT, EXIT_USAGE, JobFaultError
from monitoring.events import (
    EVENTS_FILE,
    EXIT_FILE,
    EXIT_PAUSED,
    LOG_FILE,
    SPEC_FILE,
    Artefact,
    Inputs,
    JobSpec,
    Wish,
)
from monitoring.files import FACTS_FILE, write_json
from training import job
from training.config import loader
from training.config.command import read_json
from training.fetch.inspect import read_config
from training.terminal.dataset import make_dataset
from training.terminal.screen import Screen
from training.wishes import Wishes

EXIT_INTERRUPTED = 130
DATASET_FOLDER, ATTEMPTS_FOLDER, MODEL_FOLDER = "dataset", "attempts", "model"


class _UsageError(Exception):
    """The call can't be understood."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for. `before` is the spec of the attempt to go on from."""

    dataset: Path
    model: Path
    base: Path | None
    output: Path
    config: dict[str, Any]
    before: JobSpec | None


def main(arguments: Sequence[str]) -> int:
    """Trains; returns the exit code of the process. What went wrong stands on stderr, in sentences."""
    try:
        asked = _understand(arguments)
        spec_path = _prepare(asked)
    except _UsageError as error:
        _tell(str(error))
        return EXIT_USAGE
    except JobFaultError as fault:
        _tell(f"{fault.message}\n{fault.fix}")
        return EXIT_FAULT
    except KeyboardInterrupt:
        _tell("Ended before the run began; nothing is kept.")
        return EXIT_INTERRUPTED
    return _train(spec_path, asked)


# --- The call ---


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message[:1].upper()}{message[1:]}. python -m training shows how it is called.")


def _parser() -> _Parser:
    parser = _Parser(prog="python -m training train", allow_abbrev=False, add_help=False)
    for name in ("dataset", "model", "base", "output", "json"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--resume", action="store_true")
    return parser


def _understand(arguments: Sequence[str]) -> Asked:
    """Raises _UsageError for options that don't exist and settings that can't be, JobFaultError for a taken folder."""
    given, settings = _parser().parse_known_args(list(arguments))
    if given.output is None and given.dataset is None:
        raise _UsageError("Name a dataset file after --dataset, or with --resume the run's folder after --output.")
    output = (given.output or Path("runs") / given.dataset.name.split(".")[0]).resolve()
    before = _before(output, resume=given.resume)
    inputs = before.inputs if before else Inputs()
    if before is not None and given.dataset is not None:
        _tell("The run goes on with the dataset that it began with: --dataset is not read.")
    dataset, model = (
        path or (Path(held.path) if held else None)
        for path, held in ((given.dataset, inputs.dataset), (given.model, inputs.model))
    )
    if dataset is None or model is None:
        raise _UsageError(f"Name a {'model folder after --model' if dataset else 'dataset file after --dataset'}.")
    try:
        held = read_json(given.json) if given.json else {}
        loaded = loader.load(held, settings, defaults=before.config if before else {})
    except loader.ConfigError as error:
        raise _UsageError("\n".join(str(fault) for fault in error.faults)) from error
    except (OSError, ValueError) as error:
        raise _UsageError(f"The JSON file {given.json} can't be read: {error}.") from error
    if chain := loaded.config.model.chain:
        raise _UsageError(
            f"model.chain is {chain!r}, but chains are the queue's: here none would go on. Leave it out "
            "(--model.chain '' over a file's), and name the model to go on from after --model."
        )
    for left in loaded.left_out:
        _tell(f"Left out: {left}")
    base = given.base or (Path(inputs.base.path) if inputs.base else None)
    return Asked(dataset, model, base, output, loader.to_dict(loaded.config), before)


# --- The run's folder ---


def _before(output: Path, *, resume: bool) -> JobSpec | None:
    """The last attempt of the run to go on with. Refuses to mix two runs in one folder (JobFaultError)."""
    if (output / MODEL_FOLDER).exists():
        raise JobFaultError(
            "output_taken", f"The run in {output} is done: its model is there.", "Name another folder after --output."
        )
    found = (output / ATTEMPTS_FOLDER).glob("*")
    attempts = sorted((path for path in found if path.name.isdecimal()), key=lambda path: int(path.name))
    if not resume:
        if output.exists() and any(output.iterdir()):
            raise JobFaultError(
                "output_taken",
                f"The folder {output} is not empty.",
                "Add --resume to go on with the run there, or name another folder after --output.",
            )
        return None
    if not attempts:
        raise JobFaultError(
            "nothing_to_resume", f"There is no run in {output}.", "Leave --resume out, or name its folder by --output."
        )
    return JobSpec.read(attempts[-1] / SPEC_FILE)


def _prepare(asked: Asked) -> Path:
    """Makes the dataset and the spec of the next attempt; returns the spec's path. Raises JobFaultError."""
    model, base = _model(asked.model), _model(asked.base) if asked.base else None
    config = _with_locked(asked.config, Path((base or model).path))
    before = asked.before
    dataset = before.inputs.dataset if before else _checked(asked)
    attempt = before.attempt + 1 if before else 1
    spec = JobSpec(
        job_id=0, attempt=attempt, kind="train", verb="train", host=socket.gethostname(),
        output_dir=str(asked.output), model_dir=str(asked.output / MODEL_FOLDER), config=config,
        inputs=Inputs(dataset=dataset, model=model, base=base),
    )  # fmt: skip
    spec_path = asked.output / ATTEMPTS_FOLDER / str(attempt) / SPEC_FILE
    write_json(spec_path, spec.to_json())
    return spec_path


def _model(folder: Path) -> Artefact:
    """A model's folder, looked at before anything heavy is loaded. Raises JobFaultError `model_missing`."""
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        reason = f"There is no config.json in {folder}" if folder.is_dir() else f"There is no folder {folder}"
        raise JobFaultError(
            "model_missing",
            f"{reason}.",
            "Name a folder in the layout of save_pretrained: config.json, tokenizer.json, *.safetensors.",
        )
    facts = folder / FACTS_FILE
    known = json.loads(facts.read_text()).get("id") if facts.is_file() else None
    return Artefact(id=str(known or folder.resolve().name), path=str(folder.resolve()))


def _with_locked(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with what it must share with the model. Raises JobFaultError `config_invalid`."""
    architecture = next(iter(read_config(folder / "config.json").get("architectures") or []), "")
    parent = {"locked.base_model": folder.name, "locked.model_architecture": architecture}
    try:
        loader.check_locked(loader.parse_config(config), parent)
    except loader.ConfigError as error:
        raise JobFaultError("config_invalid", str(error), "Leave the locked settings out.") from error
    return {**config, "locked": {**config["locked"], "base_model": folder.name, "model_architecture": architecture}}


def _checked(asked: Asked) -> Artefact:
    """The dataset, made from the file; nothing is left of a file that can't be used."""
    made = not asked.output.exists()
    folder = asked.output / DATASET_FOLDER
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its events say it once more, with clocks
            dataset, told = make_dataset(asked.dataset, folder)
    except BaseException:
        shutil.rmtree(asked.output if made else folder, ignore_errors=True)
        raise
    _tell("\n".join(told))
    return dataset


# --- The run ---


def _train(spec_path: Path, asked: Asked) -> int:
    """Runs the attempt as a job does, watched on the terminal; leaves `exit.json`."""
    started_at, folder, wishes = time.time(), spec_path.parent, Wishes()
    with (
        _output_to(folder / LOG_FILE) as terminal,
        Screen(folder / EVENTS_FILE, terminal) as screen,
        _interruptible(wishes, screen.say),
    ):
        try:
            code = job.main(spec_path, wishes)
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
    usage = resource.getrusage(resource.RUSAGE_SELF)
    record = {
        "code": code, "signal": None, "started_at": started_at, "ended_at": time.time(),
        "max_rss_bytes": usage.ru_maxrss * 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }  # fmt: skip
    write_json(folder / EXIT_FILE, record)
    _conclude(code, asked, folder)
    return code


def _conclude(code: int, asked: Asked, folder: Path) -> None:
    again = shlex.join(["python", "-m", "training", "train", "--output", str(asked.output), "--resume"])
    if code == 0:
        _tell(f"The model is in {asked.output / MODEL_FOLDER}.")
    elif code == EXIT_PAUSED:
        _tell(f"Paused. Go on with: {again}")
    elif code == EXIT_INTERRUPTED:
        _tell(f"Ended at once. Go on from the last checkpoint with: {again}")
    else:
        _tell(f"The log is {folder / LOG_FILE}. When it is mended, go on with: {again}")


@contextlib.contextmanager
def _interruptible(wishes: Wishes, say: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C once is the wish PAUSE; twice, the block is left by KeyboardInterrupt."""

    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a process that loads data: it inherits the handler, and ends with the run
        if wishes.told is Wish.PAUSE:
            raise KeyboardInterrupt
        wishes.tell(Wish.PAUSE)
        say("Ends after this step with a checkpoint. Ctrl-C again ends at once.")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[TextIO]:
    """Sends all that this process and its children print to `log`; yields what stderr was."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with log.open("ab") as stream, os.fdopen(os.dup(2), "w", buffering=1) as terminal:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
