"""A step that does not fit into memory is done again in smaller parts. Runs in the training process.

Losses are sums over the step's targets, so the parts add up to what the whole would have given: effective batch,
schedule and data order stay as they are. Once found, the number of parts holds for the rest of the attempt.

Where several processes train (DDP), each computes its batches and divides them alone; they meet when all have their
gradients, and agree on the largest number of parts. Under FSDP they meet within each layer: nothing can be done again.
"""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from monitoring.attempt import JobFaultError
from training.distributed.gradients import GradientSum
from training.distributed.ranks import Ranks
from training.models import trained_weights

Batch = dict[str, torch.Tensor]
Say = Callable[[str], None]
FIX = "Lower hyperparams.max_length, turn on model.gradient_checkpointing, use lora, or take a smaller model."
FSDP_FIX = (
    "Under FSDP a batch can't be divided once it is begun: lower hyperparams.per_device_train_batch_size and raise "
    "gradient_accumulation_steps as much (the effective batch stays), turn on model.gradient_checkpointing, lower "
    "hyperparams.max_length, or use lora."
)


class DividedSteps(Trainer):  # type: ignore[misc]
    """The part of a trainer that computes a batch, whole or in parts."""

    is_fsdp_enabled: bool

    def __init__(self, *, ranks: Ranks, say: Say, **rest: Any) -> None:
        self._ranks = ranks
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
        shares = isinstance(model, DistributedDataParallel)
        while True:
            try:
                with _alone(model) if shares else nullcontext():
                    loss = [self._in_parts(model, batch, num_items_in_batch) for batch in batches][-1]
                if shares and self.accelerator.sync_gradients:  # the step's last batch
                    gradients = GradientSum.of(trained_weights(self.model))
                    break
                return loss
            except RuntimeError as error:
                self._divide(error, self._step_inputs, divisible=num_items_in_batch is not None)
            # The gradients of this step may be half-added and are dropped: its earlier batches come again as well.
            self.model.zero_grad(set_to_none=True)
            batches = list(self._step_inputs)
        self._take_parts_of_others()
        gradients.take_mean(self._ranks.count)
        return loss

    def _take_parts_of_others(self) -> None:
        """What does not fit for one process won't for long for the others; the first one, which is heard, tells."""
        parts = self._ranks.most(self._parts)
        if parts > self._parts:
            self._parts = parts
            self._say(
                f"Memory did not suffice for another process: from here on each batch is computed in {parts} parts."
            )

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The loss of one batch of the evaluation, in as many parts as training takes, or more."""
        # The count is taken over all processes: once, however often the batch is computed.
        count = self._get_num_items_in_batch([inputs], self.args.device)
        while True:
            try:
                return self._evaluated_in_parts(model, inputs, count), None, None
            except RuntimeError as error:
                self._divide(error, [inputs], divisible=count is not None)

    def _in_parts(self, model: Any, inputs: Batch, count: torch.Tensor | int | None) -> torch.Tensor:
        pieces = self._pieces(inputs)
        losses: list[torch.Tensor] = [super(DividedSteps, self).training_step(model, piece, count) for piece in pieces]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _evaluated_in_parts(self, model: Any, inputs: Batch, count: torch.Tensor | int | None) -> torch.Tensor:
        with torch.no_grad(), self.compute_loss_context_manager():
            losses: list[torch.Tensor] = [
                self.compute_loss(model, self._prepare_inputs(piece), num_items_in_batch=count)
                for piece in self._pieces(inputs)
            ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _pieces(self, inputs: Batch) -> list[Batch]:
        parts = min(self._parts, len(inputs["input_ids"]))
        if parts == 1:
            return [inputs]
        columns = zip(*(value.chunk(parts) for value in inputs.values()), strict=True)
        return [dict(zip(inputs, column, strict=True)) for column in columns]

    def _divide(self, error: RuntimeError, batches: list[Batch], *, divisible: bool) -> None:
        if not is_out_of_memory(error):
            raise error
        if self.is_fsdp_enabled:
            raise out_of_memory(error, FSDP_FIX) from error
        largest = max(len(inputs["input_ids"]) for inputs in batches)
        if not divisible or self._parts >= largest:
            raise out_of_memory(error) from error
        self._parts *= 2
        self._say(f"Memory did not suffice: from here on each batch is computed in {self._parts} parts.")
        error.__traceback__ = None  # it holds the frames, and they hold the tensors
        free_cache()


def _alone(model: DistributedDataParallel) -> AbstractContextManager[None]:
    """Within it a process computes without waiting for the others, however often it begins anew."""
    model.forward_sync_buffers = False  # all have loaded the same ones
    return model.no_sync()


def free_cache() -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory on the GPU or the host did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory(error: BaseException, fix: str = FIX) -> JobFaultError:
    """The fault of a run that does not fit."""
    return JobFaultError("out_of_memory", f"The run does not fit into memory: {str(error).splitlines()[0]}", fix)
