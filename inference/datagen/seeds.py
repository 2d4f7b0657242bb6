"""The seeds: the rows of a dataset that strategies begin with, in an order that the seed alone determines.

Runs in the inference process of the verb `generate_data`.
"""

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inference.datagen.tries import Drop
from inference.numbered_rows import NumberedRows
from training.data.specs import ChatExample, RowFaultError, is_chat


@dataclass(frozen=True)
class Seed:
    """A conversation of the dataset and its row there, from 0."""

    row: int
    example: ChatExample

    @property
    def prompts(self) -> list[str]:
        """What the user says, turn by turn."""
        return [turn["content"] for turn in self.example["messages"] if turn["role"] == "user"]


class Seeds:
    """The rows of a dataset's folder, shuffled. Raises JobFaultError `dataset_missing`, `dataset_empty`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._rows = NumberedRows(folder)
        self._order = array("L", range(len(self._rows)))
        random.Random(f"seeds {seed}").shuffle(self._order)  # noqa: S311 - nothing secret is drawn

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, place: int) -> Seed | Drop:
        """The seed at a place of the order; raw text and rows that can't be read ask nothing and are no seeds."""
        row = self._order[place]
        try:
            example = self._rows.read(row)
        except RowFaultError as fault:
            return Drop("unreadable", f"Row {row + 1} of the seeds can't be read: {fault.message}")
        if not is_chat(example):
            return Drop("unreadable", f"Row {row + 1} of the seeds is raw text, which asks nothing.")
        return Seed(row, example)

    def prompts(self, most: int) -> Iterator[str]:
        """What the first `most` seeds ask: all turns as one text, and of several the first by itself too."""
        for place in range(min(most, len(self))):
            if isinstance(seed := self.read(place), Drop):
                continue
            yield "\n".join(seed.prompts)
            if len(seed.prompts) > 1:
                yield seed.prompts[0]
