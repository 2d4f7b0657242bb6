"""What a run knows about itself beyond the trainer's own state; it goes into each checkpoint's manifest and back.

Runs in the training process.
"""

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class RunState:
    """Counts over all attempts. `loss` and `eval_loss` are the last figures, `eval_step` the step of the latter.

    `suspect_since` is the first of the last logged steps in a row whose loss looks like a divergence, `calm_step` the
    last one before: its loss is that of the weights before it, so checkpoints of earlier steps are known to be good.
    """

    tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    eval_step: int | None = None
    best_eval_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    smoothed_loss: float | None = None
    first_loss: float | None = None
    best_smoothed_loss: float | None = None
    calm_step: int | None = None
    suspect_since: int | None = None
    suspect_points: int = 0
    _clock_began: float | None = field(default=None, repr=False)

    def is_good(self, step: int) -> bool:
        """Whether the loss after the checkpoint of a step has shown that its weights are good."""
        return self.calm_step is not None and step < self.calm_step

    def start_clock(self, began: float) -> None:
        """Counts `seconds` on from here; `began` is when the attempt did (time.monotonic)."""
        self._clock_began = began - self.seconds

    def read_clock(self) -> None:
        """Brings `seconds` up to date."""
        if self._clock_began is not None:
            self.seconds = time.monotonic() - self._clock_began

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON values; a figure that is no number is left out."""
        values = dataclasses.asdict(self)
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
            if not name.startswith("_")
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads a state back; names it doesn't know are ignored."""
        names = {item.name for item in dataclasses.fields(cls) if not item.name.startswith("_")}
        return cls(**{name: item for name, item in value.items() if name in names})

    def evaluated(self, step: int, loss: float, threshold: float) -> bool:
        """Notes an evaluation; says whether it is better than the best so far by more than `threshold`."""
        self.eval_loss, self.eval_step = loss, step
        better = self.best_eval_loss is None or loss < self.best_eval_loss - threshold
        if better and not math.isnan(loss):
            self.best_eval_loss, self.best_step, self.evaluations_without_gain = loss, step, 0
            return True
        self.evaluations_without_gain += 1
        return False
