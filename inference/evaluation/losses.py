"""How likely a model finds the right answers: teacher-forced losses, masked as in training.

Runs in the inference process of `evaluate`: the engine's thread computes, while the engine is idle. A row's loss is the
sum over the tokens that the assistant says, so that all rows together give the loss a training run reports.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from jinja2 import TemplateError
from torch.nn.functional import cross_entropy

from inference.engine.base import Engine
from inference.engine.failures import give_memory_back, is_out_of_memory
from inference.engine.loading import LoadedModel
from inference.engine.window import WindowCache
from inference.evaluation.cases import Case
from training.data.collator import PaddingCollator
from training.data.encoding import IGNORED, Encoded, Encoder

LOGITS_LIMIT = 64_000_000
"""Figures of one batch's output, 4 bytes each: a vocabulary of 150,000 takes 400 columns at once."""

ROWS_LIMIT = 64
WINDOW_ROWS = 512
"""So many rows are sorted by length before they are put together."""

NO_NUMBER = "The loss of this row is no number (NaN or infinite): the model's weights or its dtype are at fault."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowLoss:
    """The summed negative log-likelihood (nats) of a row's targets and how many they are; 0: it has none within the
    model's context. `retry`: the error is the device's, and another attempt may do better."""

    row: int
    sum: float = 0.0
    tokens: int = 0
    error: str = ""
    retry: bool = False


Summed = Callable[[list[Encoded]], list[float]]


def losses(engine: Engine, loaded: LoadedModel, chat_template: str, cases: Iterable[Case]) -> Iterator[RowLoss]:
    """The losses of cases, not in order. A row that fails doesn't end the others."""

    def summed(batch: list[Encoded]) -> list[float]:
        return engine.compute(partial(_sums, loaded, collate, batch))

    tokenizer = loaded.encoder
    tokenizer.chat_template = chat_template
    encoder = Encoder(tokenizer, loaded.max_model_length)
    collate = PaddingCollator(pad_token_id=tokenizer.pad_token_id or 0)
    source = iter(cases)
    while window := list(islice(source, WINDOW_ROWS)):
        encoded: list[tuple[int, Encoded]] = []
        for case in window:
            try:
                found = encoder.encode(case.example) if case.example is not None else None
            except TemplateError as error:
                yield _fault(case.row, f"The chat template refuses the conversation: {error}")
                continue
            if found is None or not found.target_count:
                yield RowLoss(case.row)
            else:
                encoded.append((case.row, found))
        encoded.sort(key=lambda item: -len(item[1].input_ids))
        for batch in _batches(encoded, loaded.vocabulary_size):
            yield from _measured(summed, batch)


def _batches(encoded: list[tuple[int, Encoded]], vocabulary: int) -> Iterator[list[tuple[int, Encoded]]]:
    """Rows of like length; the first of each is the longest."""
    at = 0
    while at < len(encoded):
        width = len(encoded[at][1].input_ids)
        size = max(1, min(ROWS_LIMIT, LOGITS_LIMIT // (width * vocabulary)))
        yield encoded[at : at + size]
        at += size


def _fault(row: int, error: str, *, retry: bool = False) -> RowLoss:
    return RowLoss(row, error=error, retry=retry)


def _measured(summed: Summed, batch: list[tuple[int, Encoded]]) -> Iterator[RowLoss]:
    """The losses of a batch; where memory runs out, of its halves."""
    sums: list[float] | None = None
    try:
        sums = summed([found for _, found in batch])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("%d rows from row %d on: %s", len(batch), batch[0][0], error)
        give_memory_back(error)
    if sums is not None:
        for (row, found), total in zip(batch, sums, strict=True):
            yield RowLoss(row, total, found.target_count) if math.isfinite(total) else _fault(row, NO_NUMBER)
    elif len(batch) > 1:  # no longer within `except`: the error would keep the tensors of the whole batch
        half = len(batch) // 2
        yield from _measured(summed, batch[:half])
        yield from _measured(summed, batch[half:])
    else:
        yield _fault(batch[0][0], "The device has no memory left for the loss of this row.", retry=True)


@torch.inference_mode()
def _sums(loaded: LoadedModel, collate: PaddingCollator, batch: list[Encoded]) -> list[float]:
    """The summed losses of rows. The output of a long row is made in pieces, each on the keys and values before it."""
    device = loaded.model.device
    tensors = collate([{"input_ids": found.input_ids, "labels": found.labels} for found in batch])
    input_ids, mask = tensors["input_ids"].to(device), tensors["attention_mask"].to(device)
    targets = tensors["labels"][:, 1:].to(device)
    columns = (targets != IGNORED).any(0).nonzero().flatten()  # the only ones whose predictions are looked at
    pieces = torch.split(columns, max(1, LOGITS_LIMIT // (len(batch) * loaded.vocabulary_size)))
    totals = [0.0] * len(batch)
    if len(pieces) == 1:
        logits = loaded.model(input_ids=input_ids, attention_mask=mask, logits_to_keep=columns, use_cache=False).logits
        return _added(totals, logits, targets[:, columns])
    cache, done = WindowCache(rows=len(batch), capacity_columns=input_ids.shape[1]), 0
    for piece in pieces:  # there is but one row, so no padding
        end = int(piece[-1]) + 1
        logits = loaded.model(
            input_ids=input_ids[:, done:end],
            position_ids=torch.arange(done, end, device=device).expand(len(batch), -1),
            cache=cache,
            use_cache=True,
            logits_to_keep=piece - done,
        ).logits
        cache.advance(end - done)
        done = end
        totals = _added(totals, logits, targets[:, piece])
    return totals


def _added(totals: list[float], logits: torch.Tensor, wanted: torch.Tensor) -> list[float]:
    """Totals with the losses of further columns: `logits` [rows, columns, vocabulary], `wanted` [rows, columns]."""
    return [
        total + float(cross_entropy(logits[row].float(), wanted[row], ignore_index=IGNORED, reduction="sum"))
        for row, total in enumerate(totals)
    ]
