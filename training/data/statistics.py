"""Token statistics of a dataset: of all rows of a small one, of an even sample of a large one, and said so.

Runs in the `validate` job; reads the accepted rows that it has just written.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from training.data.rows import LINE_LIMIT_BYTES, iter_lines
from training.data.specs import Example
from training.data.tokens import TokenCounter

CHARACTER_BUDGET = 16_000_000
"""What is tokenized at most: about five seconds on two cores, however long the rows are."""
HISTOGRAM_BINS = 20


class HistogramBin(TypedDict):
    """`count` rows of `from` up to, but not with, `to` tokens."""

    from_tokens: int
    to_tokens: int
    count: int


class TokenStatistics(TypedDict):
    """Tokens a row. `sampled`: the figures come of `sample_rows` rows alone, and `total` is an estimate from them."""

    min: int
    p50: int
    p95: int
    max: int
    mean: float
    total: int
    sampled: bool
    sample_rows: int
    model: str
    counted_by: str
    histogram: list[HistogramBin]


def rows_to_count(accepted: int, characters: int, *, full_rows: int, sample_rows: int) -> int:
    """How many of `accepted` rows are tokenized: all of a small set, else as many as sample and budget allow."""
    if accepted <= full_rows and characters <= CHARACTER_BUDGET:
        return accepted
    affordable = int(CHARACTER_BUDGET / max(characters / accepted, 1.0))
    return max(1, min(accepted, sample_rows, affordable))


def token_statistics(
    rows: Path, accepted: int, chosen: int, counter: TokenCounter, *, model: str, on_rows: Callable[[int], None]
) -> TokenStatistics:
    """Counts the tokens of `chosen` of the `accepted` rows of a file, evenly spread over it; `chosen` is at least 1."""
    lengths = np.empty(chosen, dtype=np.int64)
    for index, tokens in enumerate(counter.counts(_evenly_spread(rows, accepted, chosen))):
        lengths[index] = tokens
        on_rows(index + 1)
    median, high = (int(value) for value in np.percentile(lengths, (50, 95), method="inverted_cdf"))
    return TokenStatistics(
        min=int(lengths.min()),
        p50=median,
        p95=high,
        max=int(lengths.max()),
        mean=round(float(lengths.mean()), 2),
        total=int(lengths.sum()) if chosen == accepted else round(float(lengths.mean()) * accepted),
        sampled=chosen < accepted,
        sample_rows=chosen,
        model=model,
        counted_by=counter.how,
        histogram=_histogram(lengths),
    )


def _evenly_spread(rows: Path, accepted: int, chosen: int) -> Iterator[Example]:
    """Rows number i * accepted // chosen: the same ones each time, from the whole file; the others are not parsed."""
    wanted = 0
    with rows.open("rb") as stream:
        # A mapped row may be a little longer than its source (a prompt becomes a message).
        for index, line in enumerate(iter_lines(stream, 2 * LINE_LIMIT_BYTES)):
            if wanted < chosen and index == wanted * accepted // chosen:
                wanted += 1
                yield cast(Example, json.loads(cast(bytes, line.data)))


def _histogram(lengths: "np.ndarray[Any, np.dtype[np.int64]]") -> list[HistogramBin]:
    """Bins of equal width up to the 99th percentile; the last one reaches to the maximum."""
    low, top = int(lengths.min()), int(np.percentile(lengths, 99, method="inverted_cdf")) + 1
    edges = np.unique(np.linspace(low, top, HISTOGRAM_BINS + 1).astype(np.int64))
    edges[-1] = int(lengths.max()) + 1
    counts, _ = np.histogram(lengths, bins=edges)
    return [
        HistogramBin(from_tokens=int(a), to_tokens=int(b), count=int(n))
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
