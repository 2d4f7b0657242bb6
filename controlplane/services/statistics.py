"""How sure a measured figure is, and whether two models really differ. Runs in the web process; pure.

Proportions have Wilson's interval (Wilson 1927), means and ratios the percentile bootstrap (Efron 1979). Two models on
the same rows are compared row by row: figures of 0 and 1 by McNemar's exact test with Newcombe's interval, others by
flipping the signs of their differences (Fisher 1935), which holds for any number of rows. Above `MANY_ROWS` rows means
are so nearly normal that the normal distribution is asked instead of chance.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri  # without scipy.stats, which takes a second and 60 MB

Values = NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 2_000
"""At least; a higher confidence asks for more, so that `TAIL_RESAMPLES` lie beyond its interval."""

TAIL_RESAMPLES = 20
MANY_ROWS = 5_000
EXACT_ROWS = 14
"""Up to so many rows that differ, every way of flipping their signs is looked at: 16,384."""

SIGN_FLIPS = "a paired test by sign flips"
DRAWN_AT_ONCE = 2_000_000
SEED = 20_261


@dataclass(frozen=True)
class Interval:
    """Where the true figure lies, with the confidence that was asked for."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """`first` − `second` over `rows` common rows. `p_value` is two-sided; `test` names what gave it.

    `interval` is None where one row can't tell how figures vary.
    """

    rows: int
    first: float
    second: float
    interval: Interval | None
    p_value: float
    test: str

    @property
    def size(self) -> float:
        """How much larger the first figure is."""
        return self.first - self.second

    def is_real(self, confidence: float = CONFIDENCE) -> bool:
        """Whether chance alone would hardly make such a difference."""
        return self.p_value <= 1 - confidence


def wilson(successes: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a proportion. Raises ValueError for no trials at all."""
    if total <= 0:
        raise ValueError("a proportion of nothing")
    z = float(ndtri(0.5 + confidence / 2))
    share, z2 = successes / total, z * z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * float(np.sqrt(share * (1 - share) / total + z2 / (4 * total * total)))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def bootstrap_mean(values: Values, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of a mean; None for one row, which can't tell it."""
    return bootstrap_ratio(values, np.ones_like(values), confidence)


def bootstrap_ratio(parts: Values, wholes: Values, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of sum(parts) / sum(wholes), rows being drawn anew: a loss a token, over rows of many tokens.

    None for one row, which can't tell it.
    """
    rows = len(parts)
    if rows < 2:
        return None
    if rows > MANY_ROWS:
        return _normal(parts, wholes, confidence)
    sums = _resampled(parts, wholes, resamples=_resamples(confidence))
    return _percentiles(sums[0] / sums[1], confidence)


def compare_proportions(first: Values, second: Values, confidence: float = CONFIDENCE) -> Difference:
    """Two models by a figure that is 0 or 1 in each row."""
    both, only_first, only_second = (
        int(found.sum()) for found in (first * second, first * (1 - second), (1 - first) * second)
    )
    interval = newcombe(both, only_first, only_second, len(first), confidence)
    p_value = mcnemar(only_first, only_second)
    return Difference(len(first), float(first.mean()), float(second.mean()), interval, p_value, "McNemar's exact test")


def compare_means(first: Values, second: Values, confidence: float = CONFIDENCE) -> Difference:
    """Two models by the mean of a figure."""
    return compare_ratios(first, second, np.ones_like(first), confidence)


def compare_ratios(first: Values, second: Values, wholes: Values, confidence: float = CONFIDENCE) -> Difference:
    """Two models by sum(figure) / sum(wholes) over the same rows: their losses a token."""
    differences, total = first - second, float(wholes.sum())
    interval = bootstrap_ratio(differences, wholes, confidence)
    p_value = sign_flips(differences, confidence)
    return Difference(
        len(first), float(first.sum()) / total, float(second.sum()) / total, interval, p_value, SIGN_FLIPS
    )


def newcombe(both: int, only_first: int, only_second: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a difference of paired proportions: method 10 of Newcombe (1998), from two of Wilson's intervals.

    The bootstrap's would have no width where all rows are alike.
    """
    neither = total - both - only_first - only_second
    p1, p2 = (both + only_first) / total, (both + only_second) / total
    one, two = wilson(both + only_first, total, confidence), wilson(both + only_second, total, confidence)
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    product: float = both * neither - only_first * only_second
    product = max(product - total / 2, 0) if product > 0 else product
    phi = product / math.sqrt(margins) if margins else 0.0

    def arm(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return Interval(p1 - p2 - arm(p1 - one.low, two.high - p2), p1 - p2 + arm(one.high - p1, p2 - two.low))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test, from the rows where just one of two was right."""
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)))


def sign_flips(differences: Values, confidence: float = CONFIDENCE) -> float:
    """The two-sided p-value of paired differences: how often their sum is as large with signs that chance has dealt.

    Exact up to `EXACT_ROWS` rows that differ, as close as `confidence` asks up to `MANY_ROWS`, and normal above. Never
    0 by resampling, for chance can't be ruled out.
    """
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    sums, size = abs(float(moved.sum())), float(np.sqrt((moved**2).sum()))
    if len(moved) > MANY_ROWS:
        return 2 * float(ndtr(-sums / size))
    least = sums - 1e-9 * size  # what is equal but for rounding counts as equal
    if len(moved) <= EXACT_ROWS:
        ways = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((2 * ways - 1) @ moved) >= least).mean())
    generator, resamples = np.random.default_rng(SEED), _resamples(confidence)
    at_once, found = max(1, DRAWN_AT_ONCE // len(moved)), 0
    for start in range(0, resamples, at_once):
        heads = generator.integers(0, 2, (min(at_once, resamples - start), len(moved)), dtype=np.int8)
        found += int((np.abs(2 * (heads @ moved) - moved.sum()) >= least).sum())
    return (found + 1) / (resamples + 1)


def _resamples(confidence: float) -> int:
    return max(RESAMPLES, math.ceil(TAIL_RESAMPLES / (1 - confidence)))


def _normal(parts: Values, wholes: Values, confidence: float) -> Interval:
    """The interval of a ratio of two sums as that of a mean, from how far each row lies from it (Cochran 1977, 6.3)."""
    total = float(wholes.sum())
    ratio = float(parts.sum()) / total
    error = float(np.sqrt(((parts - ratio * wholes) ** 2).sum())) / total
    half = float(ndtri(0.5 + confidence / 2)) * error
    return Interval(ratio - half, ratio + half)


def _resampled(*columns: Values, resamples: int) -> list[Values]:
    """The sums of each column over rows drawn with replacement, once for each resample; the same rows for all."""
    rows = len(columns[0])
    generator = np.random.default_rng(SEED)  # the same figures whenever a page is opened
    at_once = max(1, DRAWN_AT_ONCE // rows)
    sums: list[list[Values]] = [[] for _ in columns]
    for start in range(0, resamples, at_once):
        drawn = generator.integers(0, rows, (min(at_once, resamples - start), rows), dtype=np.int32)
        for column, found in zip(columns, sums, strict=True):
            found.append(column[drawn].sum(axis=1))
    return [np.concatenate(found) for found in sums]


def _percentiles(figures: Values, confidence: float) -> Interval:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(figures, [tail, 100 - tail])
    return Interval(float(low), float(high))


def column(values: Any) -> Values:
    """Figures as they are calculated with."""
    return np.asarray(list(values), dtype=np.float64)
