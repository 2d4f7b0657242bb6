"""Carries out, at a step's end, what the run has been told by a signal. Runs in the training process."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitoring.events import Wish
from training.callbacks.progress import PhaseTeller
from training.wishes import Wishes

CHEAP_EVALUATION = 512
"""A run that is stopped is still evaluated on up to so many examples."""


class Safety(TrainerCallback):  # type: ignore[misc]
    """STOP and PAUSE end the training after this step with a checkpoint. `carried_out` is the wish that did."""

    def __init__(self, wishes: Wishes, phases: PhaseTeller, evaluation_examples: int) -> None:
        self._wishes = wishes
        self._phases = phases
        self._evaluates = 0 < evaluation_examples <= CHEAP_EVALUATION
        self.carried_out: Wish | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Comes after the schedule: what that has set for this step is done as well."""
        if self._wishes.told is None:
            return
        if self._wishes.told is Wish.STOP and control.should_training_stop:
            return  # the run ends here by itself
        self.carried_out = self._wishes.told
        self._phases.enter("stopping")
        control.should_log = control.should_save = control.should_training_stop = True
        if self.carried_out is Wish.STOP and self._evaluates:
            control.should_evaluate = True
