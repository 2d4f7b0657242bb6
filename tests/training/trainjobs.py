"""Factories for training jobs: the tiny model, datasets, specs, and a job as a real process or in this one."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitoring.events import EVENTS_FILE, Artefact, Event, EventWriter, Inputs, JobSpec, Metrics, decode_event
from tests.tiny import build_tiny_model, write_style_dataset
from training.wishes import Wishes

DEADLINE_SECONDS = 120.0
REPOSITORY = Path(__file__).parents[2]
FAST: dict[str, dict[str, Any]] = {
    "hyperparams": {
        "learning_rate": 3e-3,
        "max_length": 256,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "precision": "fp32",
    },
    "model": {"method": "full"},
    "data": {"eval_fraction": 0.1},
    "environment": {"nice": 0, "cpu_threads": 1},
}
"""Settings with which the tiny model learns within 40 steps, on each processor to the same digits."""


@functools.lru_cache(maxsize=1)
def tiny_model() -> Path:
    """The tiny model, built once for the test process."""
    folder = tempfile.TemporaryDirectory(prefix="pilothouse-tiny-")
    _KEPT.append(folder)
    return build_tiny_model(Path(folder.name))


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def config_of(**changes: dict[str, Any]) -> dict[str, Any]:
    """FAST with some settings changed, nested by section."""
    return {name: {**FAST.get(name, {}), **changes.get(name, {})} for name in {*FAST, *changes}}


@dataclass
class TrainJob:
    """A training job in a folder of its own."""

    root: Path
    config: dict[str, Any]
    model: Artefact
    base: Artefact | None = None
    resume_from: Artefact | None = None
    attempt: int = 1
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def output_dir(self) -> Path:
        return self.root / "runs" / "1"

    @property
    def checkpoints(self) -> Path:
        return self.output_dir / "checkpoints"

    @property
    def model_dir(self) -> Path:
        return self.root / "models" / "finished"

    @property
    def attempt_dir(self) -> Path:
        return self.root / "jobs" / "1" / "attempts" / str(self.attempt)

    def spec(self) -> JobSpec:
        dataset = Artefact(id="data", path=str(self.root / "dataset"), sha256="d" * 64)
        inputs = Inputs(dataset=dataset, model=self.model, base=self.base, resume_from=self.resume_from)
        return JobSpec(
            job_id=1, attempt=self.attempt, kind="train", verb="train", host="here", output_dir=str(self.output_dir),
            inputs=inputs, config=self.config, model_dir=str(self.model_dir),
        )  # fmt: skip

    def write_spec(self) -> Path:
        """Makes the attempt's folder with its `spec.json`, and returns that."""
        self.attempt_dir.mkdir(parents=True)
        spec_path = self.attempt_dir / "spec.json"
        spec_path.write_text(json.dumps(self.spec().to_json()))
        return spec_path

    def start(self) -> "TrainJob":
        """Starts `python -m training train SPEC`."""
        spec_path = self.write_spec()
        with (self.attempt_dir / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "training", "train", str(spec_path)],
                cwd=REPOSITORY,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        return self

    def wait(self) -> int:
        """The exit code of the process."""
        assert self.process is not None
        try:
            return self.process.wait(timeout=DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def tell(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def next_attempt(self) -> "TrainJob":
        """The same job once more."""
        return TrainJob(self.root, self.config, self.model, self.base, self.resume_from, self.attempt + 1)

    def events(self) -> list[Event]:
        """The whole events of this attempt; a torn last line is left out."""
        path = self.attempt_dir / EVENTS_FILE
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [decode_event(line) for line in lines if line.endswith(b"\n")]

    def bodies(self, kind: type[Any]) -> list[Any]:
        return [event.body for event in self.events() if isinstance(event.body, kind)]

    def curve(self, key: str) -> dict[int, float]:
        """The points of one figure by step. Fails when a step has two."""
        points = [(body.step, body.values[key]) for body in self.bodies(Metrics) if key in body.values]
        assert len({step for step, _ in points}) == len(points)
        return dict(points)

    def wait_until(self, condition: Callable[["TrainJob"], bool]) -> None:
        """Waits for something to show in the events. Fails when the process ends before, or at the deadline."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition(self):
            assert self.process is not None
            assert self.process.poll() is None, (self.attempt_dir / "log.txt").read_text()
            assert time.monotonic() < deadline, "the deadline has passed"
            time.sleep(0.02)

    def run_here(self, wishes: Wishes | None = None, callbacks: tuple[Any, ...] = ()) -> dict[str, Any]:
        """Runs the engine in this process; returns the values of its result."""
        from training.config.loader import parse_config
        from training.engine import TrainerEngine
        from training.job import find_resume

        with EventWriter(self.attempt_dir / EVENTS_FILE) as events:
            resume = find_resume(self.spec(), self.checkpoints, events)
            engine = TrainerEngine(self.spec(), events, wishes or Wishes(), resume)
            return engine.run_job(parse_config(self.config), callbacks).to_values()


def make_job(root: Path, *, rows: int = 60, seed: int = 0, **changes: dict[str, Any]) -> TrainJob:
    """A job on `rows` chats with a style, and FAST settings with `changes`."""
    write_style_dataset(root / "dataset" / "rows.jsonl", rows, seed)
    return TrainJob(root, config_of(**changes), Artefact(id="tiny", path=str(tiny_model()), sha256="a" * 64))


def write_rows(root: Path, rows: list[dict[str, Any]]) -> None:
    """Puts rows of one's own into a job's dataset."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "dataset" / "rows.jsonl").write_text(lines)
