"""The rows of a dataset as cases: what the model is asked, and what it should say.

Runs in the inference process of the verb `evaluate`. Rows are chosen as a training run holds them out: by a
permutation that the seed alone determines, so that every model meets the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from inference.numbered_rows import NumberedRows
from training.data.specs import Example, Message, RowFaultError, is_chat
from training.profiles.base import Profile


@dataclass(frozen=True)
class Case:
    """One row, shaped by the profile. `prompt` is what stands before the assistant's last turn, `expected` that turn.

    A row of raw text has neither: only its loss can be measured. `fault` says why a row can't be used at all.
    """

    row: int
    example: Example | None
    prompt: tuple[Message, ...] = ()
    expected: str | None = None
    fault: str = ""

    @property
    def question(self) -> str:
        """What the user said last."""
        return next((turn["content"] for turn in reversed(self.prompt) if turn["role"] == "user"), "")


class Cases:
    """The chosen rows of a dataset's folder. Raises JobFaultError `dataset_missing`, `dataset_empty`."""

    def __init__(self, folder: Path, profile: Profile, *, take: int, seed: int) -> None:
        self._profile = profile
        self._numbered = NumberedRows(folder)
        count = len(self._numbered)
        self.rows = sorted(_order(count, seed)[: take or count])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Case]:
        return (self.read(row) for row in self.rows)

    def read(self, row: int) -> Case:
        """The case of one row."""
        try:
            example = self._numbered.read(row)
        except RowFaultError as fault:
            return Case(row, None, fault=f"The row can't be read: {fault.message}")
        if not is_chat(example):
            return Case(row, example)
        shaped = self._profile.transform(example, row)
        turns = shaped["messages"]
        last = max((at for at, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
        if not last:
            return Case(row, shaped, fault="The row has no answer behind a question.")
        return Case(row, shaped, tuple(turns[:last]), turns[last]["content"])


def _order(count: int, seed: int) -> list[int]:
    """The order of `training.data.loading`, of which the first are held out."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
