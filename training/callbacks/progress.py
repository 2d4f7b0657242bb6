"""Tells what the training does: metrics at every logged step, progress at a pace that a browser can follow.

Runs in the training process.
"""

import math
import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitoring.events import EventWriter, Metrics, Phase, PhaseName, Progress
from training.state import RunState
from training.trainer import JobTrainer

LOGGED = ("loss", "learning_rate", "grad_norm")
"""What is passed on of the trainer's own figures."""


class PhaseTeller:
    """Emits a `phase` event when the phase changes."""

    def __init__(self, events: EventWriter) -> None:
        self._events = events
        self._name: PhaseName | None = None

    def enter(self, name: PhaseName) -> None:
        """Says that the run is in this phase now."""
        if name != self._name:
            self._name = name
            self._events.emit(Phase(name=name))


class ProgressTeller(TrainerCallback):  # type: ignore[misc]
    """Emits `metrics` and `progress`."""

    def __init__(self, events: EventWriter, phases: PhaseTeller, run: RunState, interval_seconds: float) -> None:
        self._events = events
        self._phases = phases
        self._run = run
        self._interval_seconds = interval_seconds
        self._process = psutil.Process()
        self._tokens_before = run.tokens
        self._examples_before = run.examples
        self._mark_seconds = 0.0
        self._mark_tokens = 0
        self._told_seconds = -math.inf
        self.trainer: JobTrainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """The clock of tokens a second starts."""
        self._phases.enter("active")
        self._events.emit(Progress(done=state.global_step, total=state.max_steps, unit="steps"))
        self._mark()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Moves the progress bar, unless it has just moved; always at the last step."""
        now = time.monotonic()
        if now - self._told_seconds >= self._interval_seconds or state.global_step >= state.max_steps:
            self._told_seconds = now
            self._events.emit(Progress(done=state.global_step, total=state.max_steps, unit="steps"))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, float] | None = None, **parts: Any,
    ) -> None:  # fmt: skip
        """Emits what the trainer has logged: the training's figures or an evaluation's."""
        state.log_history.clear()  # it would grow without end, and the events are the record
        logs = logs or {}
        if "eval_loss" in logs:
            self._events.emit(Metrics(state.global_step, {"eval_loss": float(logs["eval_loss"])}, state.epoch))
        elif "loss" in logs:
            self._told(state, logs)

    def _told(self, state: TrainerState, logs: dict[str, float]) -> None:
        self._run.loss = float(logs["loss"])
        values: dict[str, float] = {name: float(logs[name]) for name in LOGGED if name in logs}
        values["tokens_per_second"] = self._tokens_per_second()
        values["tokens"] = float(self._run.tokens)
        values["memory_rss_bytes"] = float(self._process.memory_info().rss)
        if torch.cuda.is_available():
            values["memory_allocated_bytes"] = float(torch.cuda.memory_allocated())
        self._events.emit(Metrics(state.global_step, values, state.epoch))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """What an evaluation takes does not count as training."""
        self._mark()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Nor does what a checkpoint takes."""
        self._mark()

    def take_counts(self) -> None:
        """Brings the run's counts up to date with the trainer's."""
        self._run.read_clock()
        if self.trainer is not None:
            tokens, examples = self.trainer.counts()
            self._run.tokens = self._tokens_before + tokens
            self._run.examples = self._examples_before + examples

    def _tokens_per_second(self) -> float:
        """Since the last mark; sets the next one."""
        seconds_before, tokens_before = self._mark_seconds, self._mark_tokens
        self._mark()
        seconds, tokens = self._mark_seconds - seconds_before, self._mark_tokens - tokens_before
        return tokens / seconds if seconds > 0 else 0.0

    def _mark(self) -> None:
        self.take_counts()
        self._mark_seconds, self._mark_tokens = time.monotonic(), self._run.tokens
