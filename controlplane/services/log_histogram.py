"""Histograms whose bins grow by a tenth: of any length in a few bytes, added by bin, read as quantiles. Pure.

A quantile is right to half a bin (4.5 %). Bins are kept as {number of the bin as a string: count}, as JSON has them.
"""

import math
from collections.abc import Iterable, Mapping

Histogram = dict[str, int]
BINS_AN_OCTAVE = 8
SMALLEST = 1e-6
"""What is smaller counts as this."""


def added(histogram: Mapping[str, int], values: Iterable[float]) -> Histogram:
    """The histogram with more values (above 0) in it."""
    found = dict(histogram)
    for value in values:
        number = str(math.floor(math.log2(max(value, SMALLEST)) * BINS_AN_OCTAVE))
        found[number] = found.get(number, 0) + 1
    return found


def merged(histograms: Iterable[Mapping[str, int]]) -> Histogram:
    """All of them together."""
    found: Histogram = {}
    for histogram in histograms:
        for number, count in histogram.items():
            found[number] = found.get(number, 0) + count
    return found


def quantile(histogram: Mapping[str, int], share: float) -> float | None:
    """The value that `share` of all are at most; None of nothing."""
    total = sum(histogram.values())
    if not total:
        return None
    rank, passed = share * total, 0
    for number in sorted(map(int, histogram)):
        passed += histogram[str(number)]
        if passed >= rank:
            return float(2 ** ((number + 0.5) / BINS_AN_OCTAVE))
    return None
