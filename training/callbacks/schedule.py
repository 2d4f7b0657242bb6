"""When a run logs, evaluates, saves and ends. Runs in the training process."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.config.schema import TrainerConfig
from training.state import RunState


class Schedule(TrainerCallback):  # type: ignore[misc]
    """Decides at each step's end, from the settings alone; 0 steps mean once an epoch. The last step has everything."""

    def __init__(self, config: TrainerConfig, run: RunState, *, evaluates: bool) -> None:
        self._config = config
        self._run = run
        self._evaluates = evaluates
        self._steps_per_epoch = 1
        self.ended_early = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Finds out how many steps make an epoch."""
        batches = len(parts["train_dataloader"])
        self._steps_per_epoch = max(1, -(-batches // args.gradient_accumulation_steps))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Log, evaluate, save: the trainer does what is set here in this order, after this step."""
        step, last = state.global_step, state.global_step >= state.max_steps
        monitoring, output = self._config.monitoring, self._config.output
        if step == 1 or last or step % monitoring.logging_steps == 0:
            control.should_log = True
        if self._evaluates and (last or step % (monitoring.eval_steps or self._steps_per_epoch) == 0):
            control.should_evaluate = control.should_log = True
        if last or step % (output.save_steps or self._steps_per_epoch) == 0:
            control.should_save = control.should_log = True
        if last:
            control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Notes the result; ends the run when it has got no better for as long as the settings allow."""
        hyper = self._config.hyperparams
        loss = float(parts["metrics"]["eval_loss"])
        better = self._run.evaluated(state.global_step, loss, hyper.early_stopping_threshold)
        if not hyper.early_stopping_patience:
            return
        if better:
            control.should_save = True  # the best state is what will be published
        elif self._run.evaluations_without_gain >= hyper.early_stopping_patience:
            self.ended_early = not control.should_training_stop
            control.should_training_stop = control.should_save = True
