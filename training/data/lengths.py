"""Rows that are far longer than the others. Runs in the `validate` job.

Far outside is Tukey's: more than three times the distance of the quartiles above the upper one. Where most rows are
alike that is close by, so a row must also be at least twice as long as the median.
"""

import heapq
from array import array
from typing import TypedDict

import numpy as np

KEPT = 10
LEAST_ROWS = 20
"""Of fewer rows quartiles say nothing."""


class LongRow(TypedDict):
    """Where a row stands in the file, and how many characters it has."""

    line: int
    characters: int


class Outliers(TypedDict):
    """`count` rows have more than `fence_characters`; `rows` are the longest of them."""

    fence_characters: int
    median_characters: int
    count: int
    rows: list[LongRow]


class Lengths:
    """Notes the length of each row: four bytes a row."""

    def __init__(self) -> None:
        self._characters = array("I")
        self._longest: list[tuple[int, int]] = []

    def note(self, number: int, characters: int) -> None:
        """One row more."""
        self._characters.append(characters)
        if len(self._longest) < KEPT:
            heapq.heappush(self._longest, (characters, -number))
        elif characters > self._longest[0][0]:
            heapq.heapreplace(self._longest, (characters, -number))

    def outliers(self) -> Outliers | None:
        """The rows far outside; None of a set that is too small to tell."""
        if len(self._characters) < LEAST_ROWS:
            return None
        lengths = np.frombuffer(self._characters, dtype=np.uintc)
        low, median, high = (float(value) for value in np.percentile(lengths, (25, 50, 75)))
        fence = max(high + 3 * (high - low), 2 * median)
        return Outliers(
            fence_characters=int(fence),
            median_characters=int(median),
            count=int((lengths > fence).sum()),
            rows=[
                LongRow(line=-number, characters=characters)
                for characters, number in sorted(self._longest, reverse=True)
                if characters > fence
            ],
        )
