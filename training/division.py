"""A step that does not fit into memory is done again in smaller parts. Runs in the training process.

Losses are sums over the step's targets, so the parts add up to what the whole would have given: effective batch,
schedule and data order stay as they are. Once found, the number of parts holds for the rest of the attempt.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer

from monitoring.attempt import JobFaultError

Batch = dict[str, torch.Tensor]
Say = Callable[[str], None]


class DividedSteps(Trainer):  # type: ignore[misc]
    """The part of a trainer that computes a batch, whole or in parts.

    `may_divide`: not where other processes wait for this one's gradients.
    """

    may_divide = True

    def __init__(self, *, say: Say, **rest: Any) -> None:
        self._say = say
        self._parts = 1
        self._step_inputs: list[Batch] = []
        super().__init__(**rest)

    @property
    def parts(self) -> int:
        """In how many parts a batch is computed."""
        return self._parts

    def begin_step(self) -> None:
        """The batches of another optimizer step come."""
        self._step_inputs = []

    def training_step(
        self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One batch forward and backward. When memory does not suffice, it is divided and the step done again.

        Raises JobFaultError `out_of_memory` for a single example.
        """
        self._step_inputs.append(inputs)
        batches = [inputs]
        while True:
            try:
                return [self._in_parts(model, batch, num_items_in_batch) for batch in batches][-1]
            except RuntimeError as error:
                self._divide(error, self._step_inputs, divisible=num_items_in_batch is not None)
            # The gradients of this step may be half-added and are dropped: its earlier batches come again as well.
            self.model.zero_grad(set_to_none=True)
            batches = list(self._step_inputs)

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The loss of one batch of the evaluation, in as many parts as training takes, or more."""
        while True:
            try:
                return self._evaluated_in_parts(model, inputs), None, None
            except RuntimeError as error:
                self._divide(error, [inputs], divisible=True)

    def _in_parts(self, model: Any, inputs: Batch, count: torch.Tensor | int | None) -> torch.Tensor:
        pieces = self._pieces(inputs)
        losses: list[torch.Tensor] = [super(DividedSteps, self).training_step(model, piece, count) for piece in pieces]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _evaluated_in_parts(self, model: Any, inputs: Batch) -> torch.Tensor:
        """The mean loss a target: each part's, weighted by its targets."""
        losses: list[torch.Tensor] = []
        counts: list[torch.Tensor] = []
        for piece in self._pieces(inputs):
            loss, _, _ = super().prediction_step(model, piece, True)
            losses.append(loss)
            counts.append((piece["labels"][..., 1:] >= 0).sum())
        if len(losses) == 1:
            return losses[0]
        weights = torch.stack(counts).to(losses[0].dtype)
        shares = torch.where(weights > 0, torch.stack(losses), torch.zeros_like(weights)) * weights
        total: torch.Tensor = shares.sum() / weights.sum()
        return total

    def _pieces(self, inputs: Batch) -> list[Batch]:
        parts = min(self._parts, len(inputs["input_ids"]))
        if parts == 1:
            return [inputs]
        columns = zip(*(value.chunk(parts) for value in inputs.values()), strict=True)
        return [dict(zip(inputs, column, strict=True)) for column in columns]

    def _divide(self, error: RuntimeError, batches: list[Batch], *, divisible: bool) -> None:
        if not is_out_of_memory(error):
            raise error
        largest = max(len(inputs["input_ids"]) for inputs in batches)
        if not divisible or self._parts >= largest or not self.may_divide:
            raise out_of_memory(error) from error
        self._parts *= 2
        self._say(f"Memory did not suffice: from here on each batch is computed in {self._parts} parts.")
        error.__traceback__ = None  # it holds the frames, and they hold the tensors
        free_cache()


def free_cache() -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory on the GPU or the host did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory(error: BaseException) -> JobFaultError:
    """The fault of a run that does not fit."""
    return JobFaultError(
        "out_of_memory",
        f"The run does not fit into memory: {str(error).splitlines()[0]}",
        "Lower hyperparams.max_length, turn on model.gradient_checkpointing, use lora, or take a smaller model.",
    )
