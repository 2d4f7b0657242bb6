"""Ends a run whose loss is no number any more, or has run away. Runs in the training process.

Such a state is never saved: a step is logged before it is saved, and what is wrong is raised with the log. While the
loss is only suspect, the last good checkpoint is kept from retention.
"""

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitoring.attempt import JobFaultError
from training import checkpoints
from training.state import RunState
from training.trainer import JobTrainer

NEWEST_WEIGHT = 0.2
"""How much the newest loss counts in the smoothed one."""

PATIENCE_POINTS = 10
"""So many points in a row must be too high: a few bad batches are no divergence."""


class Divergence(TrainerCallback):  # type: ignore[misc]
    """Comes after `ProgressTeller`, which shows the figures first. `folder` holds the checkpoints.

    Raises JobFaultError `loss_not_finite`, or `loss_diverged` when the smoothed loss has stayed above `factor` times
    its best, and above where it began. A factor of 0 looks for the former alone.
    """

    def __init__(self, run: RunState, folder: Path, factor: float) -> None:
        self._run = run
        self._folder = folder
        self._factor = factor

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, float] | None = None, **parts: Any,
    ) -> None:  # fmt: skip
        """Looks at what the training has logged; evaluations are none of its business."""
        if not logs or "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        step = state.global_step
        if not math.isfinite(loss):
            raise _not_finite(f"The loss is {loss} at step {step}", self._folder, self._run, args.learning_rate)
        if not math.isfinite(norm) and not args.fp16:  # fp16 meets infinities while it looks for its scale
            raise _not_finite(
                f"The gradient's norm is {norm} at step {step}", self._folder, self._run, args.learning_rate
            )
        self._note(step, loss)
        if self._run.suspect_points >= PATIENCE_POINTS:
            raise self._diverged(step, args.learning_rate)

    def _note(self, step: int, loss: float) -> None:
        """Brings the smoothed loss up to date, and whether it is suspect."""
        run = self._run
        before = run.smoothed_loss
        run.smoothed_loss = loss if before is None else before + NEWEST_WEIGHT * (loss - before)
        run.first_loss = loss if run.first_loss is None else run.first_loss
        best = run.best_smoothed_loss
        run.best_smoothed_loss = run.smoothed_loss if best is None else min(best, run.smoothed_loss)
        limit = max(self._factor * run.best_smoothed_loss, run.first_loss)
        if not self._factor or max(loss, run.smoothed_loss) <= limit:
            run.calm_step, run.suspect_since, run.suspect_points = step, None, 0
            return
        run.suspect_since = step if run.suspect_since is None else run.suspect_since
        run.suspect_points = run.suspect_points + 1 if run.smoothed_loss > limit else 0

    def _diverged(self, step: int, learning_rate: float) -> JobFaultError:
        run = self._run
        return JobFaultError(
            "loss_diverged",
            f"The loss has run away: from step {run.suspect_since} to step {step} it stayed above {self._factor:g} "
            f"times its best ({run.best_smoothed_loss:.4g}), and above where it began ({run.first_loss:.4g}). "
            f"{_last_good(self._folder, run)}",
            f"Lower hyperparams.learning_rate (it is {learning_rate:g}) and go on from there. Where such a loss is "
            "meant, set monitoring.divergence_factor to 0.",
        )


def require_finite(trainer: JobTrainer, folder: Path, run: RunState) -> None:
    """Before a checkpoint is written: raises JobFaultError `loss_not_finite` for a loss or weights that are no numbers.

    The loss of a step is that of the weights before it; what the step itself has done to them only they can tell.
    """
    step, learning_rate = trainer.state.global_step, trainer.args.learning_rate
    if not trainer.loss_is_finite():
        raise _not_finite(f"The loss is no number at step {step}", folder, run, learning_rate)
    if not trainer.weights_are_finite():
        raise _not_finite(f"Weights are no numbers after step {step}", folder, run, learning_rate)


def _not_finite(told: str, folder: Path, run: RunState, learning_rate: float) -> JobFaultError:
    return JobFaultError(
        "loss_not_finite",
        f"{told}: from here on the weights are worthless. {_last_good(folder, run)}",
        f"Lower hyperparams.learning_rate (it is {learning_rate:g}) or raise hyperparams.warmup_ratio, and go on from "
        "there.",
    )


def _last_good(folder: Path, run: RunState) -> str:
    """Which checkpoint there is to go on from: the last one that the loss after it has shown to be good."""
    steps = [step for step in checkpoints.steps(folder) if run.is_good(step)]
    if not steps:
        return "There is no good checkpoint from before."
    return f"The last good checkpoint is that of step {steps[-1]}; it is kept."
