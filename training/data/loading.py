"""A dataset on disk as something that can be trained on, in bounded memory.

Runs in the training process. One pass over `rows.jsonl` notes where each row begins: 24 bytes a row, whatever its
length. A row is read, shaped by the profile and tokenized when a batch needs it; the ids of recent rows are kept up to
a limit. Lengths, which are needed to put like with like, are estimated from the bytes of a row: exact counts of a
large file take minutes. A small set is encoded at once, so that its counts are exact from the start.

A row that can't be used (no target, too short, too long) is left out of a small set. In a large one it shows itself
only when it is met; the next usable row takes its place, so that batches stay whole and the order stays a function of
the seed alone.
"""

import hashlib
import os
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch.utils.data import Dataset

from monitoring.attempt import JobFaultError
from training.config.schedule import held_out
from training.config.schema import TrainerConfig
from training.data.encoding import IGNORED, Encoded, Encoder
from training.data.order import FILLER
from training.data.rows import LINE_LIMIT_BYTES, ROWS_FILE
from training.data.specs import RowFaultError, is_chat, parse_line
from training.profiles.base import Profile

EAGER_ROWS = 2_000
"""Up to so many rows are encoded before the first step (under two seconds)."""
CACHE_TOKENS = 16_000_000
"""Ids of recent rows that are kept, 5 bytes each."""
TRIES = 1_000
"""So many unusable rows in a row mean that the dataset is not one."""


@dataclass(frozen=True)
class RowIndex:
    """Where each row of a file begins and how long it is, in bytes; `duplicates` is what was left out as such."""

    path: Path
    starts: "array[int]"
    lengths: "array[int]"
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.starts)


def rows_file(folder: Path) -> Path:
    """The rows of a dataset's folder. Raises JobFaultError `dataset_missing`."""
    path = folder / ROWS_FILE if folder.is_dir() else folder
    if not path.is_file():
        raise JobFaultError(
            "dataset_missing",
            f"There is no {ROWS_FILE} in {folder}.",
            "Validate the dataset again, then start the run.",
        )
    return path


def index_rows(path: Path, *, drop_duplicates: bool = False) -> RowIndex:
    """One pass over a file; blank lines and lines beyond the limit of a row are left out."""
    starts, lengths = array("Q"), array("L")
    seen: set[bytes] = set()
    duplicates = position = 0
    with path.open("rb", buffering=1 << 20) as stream:
        for line in stream:
            start, position = position, position + len(line)
            if len(line) > LINE_LIMIT_BYTES or line.isspace():
                continue
            if drop_duplicates:
                digest = hashlib.blake2b(line.strip(), digest_size=12).digest()
                if digest in seen:
                    duplicates += 1
                    continue
                seen.add(digest)
            starts.append(start)
            lengths.append(len(line))
    return RowIndex(path, starts, lengths, duplicates)


@dataclass(frozen=True)
class TokenLimits:
    """Rows with fewer or more tokens are left out; `most` 0: none is too long."""

    least: int = 1
    most: int = 0


class Rows:
    """Encodes single rows of an indexed file; remembers recent ones, and which can't be used.

    Safe to use in forked worker processes: what is unusable is noted in shared memory.
    """

    def __init__(self, index: RowIndex, profile: Profile, encoder: Encoder, limits: TokenLimits) -> None:
        self.index = index
        self._profile = profile
        self._encoder = encoder
        self._limits = limits
        self._unusable: torch.Tensor = torch.zeros(len(index), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self._recent: OrderedDict[int, tuple[array[int], bytes]] = OrderedDict()
        self._recent_tokens = 0
        self._descriptor = os.open(index.path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def unusable_flags(self) -> torch.Tensor:
        """One figure a row: 1 where it was met and can't be trained on."""
        return self._unusable

    @property
    def unusable(self) -> int:
        """How many of the rows met so far can't be trained on."""
        return int(self._unusable.sum())

    def encode(self, row: int) -> Encoded | None:
        """The row as tokens, or None when it can't be used."""
        if self._unusable[row]:
            return None
        if (held := self._recent.get(row)) is not None:
            self._recent.move_to_end(row)
            return Encoded(held[0].tolist(), [bool(flag) for flag in held[1]])
        encoded = self._encode(row)
        if encoded is None:
            self._unusable[row] = 1
            return None
        self._remember(row, encoded)
        return encoded

    def reason(self, row: int) -> str:
        """Why a row can't be trained on, as a sentence that begins with "it"."""
        try:
            encoded = self._read(row)
        except (RowFaultError, TemplateError) as error:
            return f"it can't be read: {error}"
        length, least, most = encoded.whole_length, self._limits.least, self._limits.most
        if most and length > most:
            return f"it has {length:,} tokens, more than data.max_tokens ({most:,})."
        if length < least:
            return f"it has {length:,} tokens, fewer than data.min_tokens ({least:,})."
        if length > len(encoded.input_ids):
            held = len(encoded.input_ids)
            return f"it has {length:,} tokens, and no answer begins in the first {held:,} (hyperparams.max_length)."
        return "it has no answer."

    def _encode(self, row: int) -> Encoded | None:
        try:
            encoded = self._read(row)
        except (RowFaultError, TemplateError):
            return None
        too_short = encoded.whole_length < self._limits.least
        too_long = bool(self._limits.most) and encoded.whole_length > self._limits.most
        return None if encoded.target_count == 0 or too_short or too_long else encoded

    def _read(self, row: int) -> Encoded:
        line = os.pread(self._descriptor, self.index.lengths[row], self.index.starts[row])
        example = parse_line(line.strip()).example
        if is_chat(example):
            example = self._profile.transform(example, row)
        return self._encoder.encode(example)

    def _remember(self, row: int, encoded: Encoded) -> None:
        self._recent[row] = (array("i", encoded.input_ids), bytes(encoded.is_target))
        self._recent_tokens += len(encoded.input_ids)
        while self._recent_tokens > CACHE_TOKENS and len(self._recent) > 1:
            _, (ids, _) = self._recent.popitem(last=False)
            self._recent_tokens -= len(ids)


class Examples(Dataset[dict[str, list[int]]]):
    """Some rows of a file as a map-style dataset of {"input_ids", "labels"}, lists of equal length."""

    def __init__(self, rows: Rows, chosen: Sequence[int]) -> None:
        self._rows = rows
        self.chosen = array("Q", chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> dict[str, list[int]]:
        """The example at `position`, or the next usable one. Raises JobFaultError `no_trainable_tokens`.

        At FILLER it is a single token that is not learned.
        """
        if position == FILLER:
            return {"input_ids": [0], "labels": [IGNORED]}
        for offset in range(min(len(self.chosen), TRIES)):
            encoded = self._rows.encode(self.chosen[(position + offset) % len(self.chosen)])
            if encoded is not None:
                return {"input_ids": encoded.input_ids, "labels": encoded.labels}
        raise _nothing_to_learn(self._rows, self.chosen)

    def estimated_lengths(self) -> list[int]:
        """A figure for each example that grows with its number of tokens: the bytes of its row."""
        lengths = self._rows.index.lengths
        return [lengths[row] for row in self.chosen]


@dataclass(frozen=True)
class Split:
    """What is trained on and what is held out; `left_out` counts rows that are in neither."""

    train: Examples
    evaluation: Examples | None
    rows: Rows
    left_out: int = 0

    def skipped(self) -> int:
        """Rows that were not trained on although they were asked for: unusable or equal to an earlier one."""
        return self.rows.unusable + self.rows.index.duplicates


def load_split(
    folder: Path, config: TrainerConfig, profile: Profile, encoder: Encoder, *, eval_folder: Path | None = None,
    on_progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Split:  # fmt: skip
    """The training and evaluation examples of a dataset's folder, split by the seed.

    Raises JobFaultError: `dataset_missing`, `dataset_empty`, `no_trainable_tokens`.
    """
    data = config.data
    index = index_rows(rows_file(folder), drop_duplicates=data.drop_duplicates)
    if not len(index):
        raise JobFaultError("dataset_empty", f"{index.path} holds no rows.", "Choose a dataset with rows in it.")
    limits = TokenLimits(data.min_tokens, data.max_tokens)
    rows = Rows(index, profile, encoder, limits)
    chosen = _usable(rows, _order(len(index), config.hyperparams.seed), on_progress)
    if data.max_examples:
        chosen = chosen[: data.max_examples]
    if eval_folder is not None:
        held = Rows(index_rows(rows_file(eval_folder)), profile, encoder, limits)
        held_rows = _usable(held, list(range(len(held.index))), on_progress)
        evaluation = Examples(held, _capped(held_rows, config)) if held_rows else None
        return Split(Examples(rows, sorted(chosen)), evaluation, rows)
    held_count = held_out(len(chosen), data.eval_fraction)
    by_length = sorted(_capped(chosen[:held_count], config), key=lambda row: (index.lengths[row], row))
    evaluation = Examples(rows, by_length) if held_count else None
    return Split(Examples(rows, sorted(chosen[held_count:])), evaluation, rows)


def _usable(rows: Rows, order: list[int], on_progress: Callable[[int, int], Any]) -> list[int]:
    """The rows that can be trained on: known for a small set, taken on trust for a large one."""
    if len(order) > EAGER_ROWS:
        if not any(rows.encode(row) is not None for row in order[:TRIES]):
            raise _nothing_to_learn(rows, order[:TRIES])
        return order
    usable = []
    for done, row in enumerate(order):
        if rows.encode(row) is not None:
            usable.append(row)
        on_progress(done + 1, len(order))
    if not usable:
        raise _nothing_to_learn(rows, order)
    return usable


def _order(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator).tolist()


def _capped(rows: list[int], config: TrainerConfig) -> list[int]:
    limit = config.monitoring.eval_samples
    return rows[:limit] if limit else rows


def _nothing_to_learn(rows: Rows, tried: Sequence[int]) -> JobFaultError:
    """The fault of a dataset of which no row can be learned from."""
    first = min(tried)
    which = "None of the" if len(tried) == len(rows.index) else "None of the first"
    return JobFaultError(
        "no_trainable_tokens",
        f"{which} {len(tried):,} examples of {rows.index.path} can be learned from. Example {first + 1}: "
        f"{rows.reason(first)}",
        "Raise hyperparams.max_length or data.max_tokens, lower data.min_tokens, or look at the dataset's preview: "
        "answers must be there.",
    )
