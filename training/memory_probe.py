"""The longest batch, forward and backward, before the first step: what does not fit shows at once.

Runs in the training process. A run that would fail after hours at its longest batch, or do a step again, finds its
division before step 1. Nothing of it stays: gradients are dropped, random numbers are put back, no weight changes. The
room that the optimizer takes from its first step on is held meanwhile, since its state isn't there yet.

It runs on GPUs. On a processor there is nothing to catch (the kernel kills where a GPU refuses), and the order of the
data has the longest batch at the beginning in any case. Where several processes train, each probes the same batch, and
the division that one of them finds is all of theirs. Under FSDP there is none to find: what does not fit ends the run.
"""

import heapq
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitoring.events import EventWriter
from training.distributed.sharding import own_part
from training.division import Batch, DividedSteps, free_cache, is_out_of_memory, out_of_memory
from training.estimate.memory import OPTIMIZER_BYTES
from training.models import trained_weights

LOOKED_AT = 8
"""So many times a batch."""


def is_worthwhile() -> bool:
    """Whether what does not fit can be caught here."""
    return torch.cuda.is_available()


class MemoryProbe(TrainerCallback):  # type: ignore[misc]
    """Probes when training begins. `trainer` is set once there is one."""

    def __init__(self, events: EventWriter) -> None:
        self._events = events
        self.trainer: DividedSteps | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Raises JobFaultError `out_of_memory` when not even one example fits."""
        if self.trainer is not None and is_worthwhile() and state.global_step < state.max_steps:
            self._events.log(probe(self.trainer))


def probe(trainer: DividedSteps) -> str:
    """Computes the longest batch; returns what came of it, as a sentence."""
    began = time.monotonic()
    batch = longest_batch(trainer)
    rows, tokens = batch["input_ids"].shape
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with _random_numbers_kept():
        held = _room_of_optimizer(trainer)
        count = (batch["labels"][..., 1:] >= 0).sum().to(trainer.args.device)
        trainer.begin_step()
        # With accumulation the second batch meets the first one's gradients.
        for _ in range(min(2, trainer.args.gradient_accumulation_steps)):
            trainer.training_step(trainer.model_wrapped, dict(batch), count)
        trainer.begin_step()
        trainer.model.zero_grad(set_to_none=True)
        del held
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    free_cache()
    return _told(rows, tokens, trainer.parts, peak, time.monotonic() - began)


def longest_batch(trainer: DividedSteps) -> Batch:
    """The longest examples of the training set in one batch: none that comes will be larger.

    Bytes tell of tokens roughly only: so many of the longest rows are tokenized, and the longest of them taken.
    """
    examples, size = trainer.train_dataset, trainer.args.train_batch_size
    lengths = examples.estimated_lengths()
    places = heapq.nlargest(size * LOOKED_AT, range(len(lengths)), key=lengths.__getitem__)
    features = heapq.nlargest(size, (examples[place] for place in places), key=lambda item: len(item["input_ids"]))
    batch: Batch = trainer.data_collator(features)
    return batch


def _room_of_optimizer(trainer: DividedSteps) -> torch.Tensor | None:
    """A block as large as the optimizer's state will be; None where the state is there already."""
    optimizer = trainer.optimizer
    if optimizer is None or optimizer.state:
        return None
    trained = sum(own_part(weight).numel() for weight in trained_weights(trainer.model))
    size = int(OPTIMIZER_BYTES.get(str(trainer.args.optim.value), 8.0) * trained)
    try:
        return torch.empty(size, dtype=torch.uint8, device=trainer.args.device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory(error) from error
        raise


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Leaves every generator that a step may draw from as it was."""
    python, numpy, processor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(processor)
        if cards:
            torch.cuda.set_rng_state_all(cards)


def _told(rows: int, tokens: int, parts: int, peak_bytes: int | None, seconds: float) -> str:
    where = f"in {parts} parts" if parts > 1 else "at once"
    size = "" if peak_bytes is None else f", with {peak_bytes / 1e9:.2f} GB at most"
    return f"The longest batch, {rows} × {tokens:,} tokens, fits {where}{size} (tried in {seconds:.1f} s)."
