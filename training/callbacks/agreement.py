"""What the first process decides at a step's end, all of them do. Runs in the training process."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitoring.events import Wish
from training.callbacks.safety import Safety
from training.distributed.ranks import Ranks

FLAGS = ("should_log", "should_evaluate", "should_save", "should_epoch_stop", "should_training_stop")
WISHES = (None, Wish.STOP, Wish.PAUSE)


class Agreement(TrainerCallback):  # type: ignore[misc]
    """Comes last: a wish, a full disk or a user's callback is met by one process first, and heeded by all at once."""

    def __init__(self, ranks: Ranks, safety: Safety) -> None:
        self._ranks = ranks
        self._safety = safety

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """One number over gloo, some 0.1 ms a step."""
        bits = sum(int(getattr(control, name)) << place for place, name in enumerate(FLAGS))
        wish = WISHES.index(self._safety.carried_out)
        told = self._ranks.agreed(bits | wish << len(FLAGS))
        for place, name in enumerate(FLAGS):
            setattr(control, name, bool(told >> place & 1))
        self._safety.carried_out = WISHES[told >> len(FLAGS)]
