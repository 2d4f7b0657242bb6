"""The arithmetic of telemetry over time: time means of intervals, gaps, thinning. Runs in the web process.

A mean is a time mean: the integral of the straight lines between samples, divided by the time that they cover. So the
integral of a mean over its interval is the integral of the samples, however unevenly those came. Where two samples lie
further apart than `GAP_SECONDS` nothing was measured in between: that time counts for nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

GAP_SECONDS = 3.0
"""The same as in `services.energy`, so that both find the same joules."""

WHOLE_WITHIN_SECONDS = 0.01
WHOLE_FROM = 1e6
"""Figures from here on (bytes) are kept without decimals."""

Floats = NDArray[np.float64]
Triple = list[float]
"""minimum, mean, maximum; a fourth where not all of the interval is covered by samples: the seconds that are"""


class Line(TypedDict):
    """One figure over time: Unix seconds and, at each, mean, minimum and maximum. None in all three: a gap."""

    time: list[float]
    mean: list[float | None]
    min: list[float | None]
    max: list[float | None]


@dataclass(frozen=True)
class Points:
    """One figure's known points, by time; at a resolution of 1 s all three are the same."""

    time: Floats
    low: Floats
    mean: Floats
    high: Floats


def per_interval(
    samples: Sequence[tuple[float, Mapping[str, float]]], start: float, end: float, seconds: int
) -> dict[float, dict[str, Triple]]:
    """Samples [(time, {name: figure})] in order → {begin of interval: {name: [minimum, mean, maximum]}}.

    The intervals are those of `seconds` between `start` and `end` (both multiples). Samples a little outside belong in:
    the lines to them reach over the edges.
    """
    found: dict[float, dict[str, Triple]] = {}
    for name in sorted({name for _, values in samples for name in values}):
        known = [(time, values[name]) for time, values in samples if name in values]
        for begin, triple in _triples(np.array(known, dtype=np.float64), start, end, seconds).items():
            found.setdefault(begin, {})[name] = triple
    return found


def _triples(known: Floats, start: float, end: float, seconds: int) -> dict[float, Triple]:
    times, values = known[:, 0], known[:, 1]
    inside = (times >= start) & (times < end)
    bins = ((times[inside] - start) // seconds).astype(np.intp)
    if not len(bins):
        return {}
    filled, first = np.unique(bins, return_index=True)
    low, high = np.minimum.reduceat(values[inside], first), np.maximum.reduceat(values[inside], first)
    plain = np.add.reduceat(values[inside], first) / np.diff(np.append(first, len(bins)))
    area, covered = _integral(times, values, start, end, seconds)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(covered[filled] > 0, area[filled] / covered[filled], plain)
    return {
        start + int(which) * seconds: _triple(low[row], mean[row], high[row], float(covered[which]), seconds)
        for row, which in enumerate(filled)
    }


def _triple(low: float, mean: float, high: float, covered: float, seconds: int) -> Triple:
    part = [] if covered > seconds - WHOLE_WITHIN_SECONDS else [round(covered, 3)]
    return [_rounded(low), _rounded(mean), _rounded(high), *part]


def covered_seconds(triple: Triple, seconds: int) -> float:
    """How much of an interval of so many seconds its mean speaks for."""
    return triple[3] if len(triple) > 3 else float(seconds)


def _integral(times: Floats, values: Floats, start: float, end: float, seconds: int) -> tuple[Floats, Floats]:
    """Per interval: the integral of the lines between samples, and the seconds that they cover."""
    count = round((end - start) / seconds)
    if len(times) < 2:
        return np.zeros(count), np.zeros(count)
    edges = start + seconds * np.arange(count + 1, dtype=np.float64)
    edges = edges[(edges > times[0]) & (edges < times[-1])]
    points = np.union1d(times, edges)
    heights = np.interp(points, times, values)
    left = points[:-1]
    line = np.searchsorted(times, left, side="right") - 1
    widths = np.where(times[line + 1] - times[line] <= GAP_SECONDS, np.diff(points), 0.0)
    bins = ((left - start) // seconds).astype(np.intp)
    inside = (bins >= 0) & (bins < count)
    areas = widths * (heights[:-1] + heights[1:]) / 2
    area, covered = (np.bincount(bins[inside], part[inside], minlength=count) for part in (areas, widths))
    return area.astype(np.float64), covered.astype(np.float64)


def _rounded(value: float) -> float:
    return round(float(value)) if abs(value) >= WHOLE_FROM else round(float(value), 3)


def merged(rows: Iterable[Mapping[str, Triple]], source: int, target: int) -> dict[str, Triple]:
    """Rows of intervals of `source` seconds as one of `target`: the least minimum, the largest maximum, the mean.

    Each mean weighs by what it covers, so the mean times the covered seconds stays the integral of the samples.
    """
    by_name: dict[str, list[Triple]] = {}
    for row in rows:
        for name, triple in row.items():
            by_name.setdefault(name, []).append(triple)
    return {name: _merged(some, source, target) for name, some in by_name.items()}


def _merged(some: Sequence[Triple], source: int, target: int) -> Triple:
    weights = [covered_seconds(triple, source) for triple in some]
    covered = math.fsum(weights)
    if covered <= 0:  # single samples, each far from the next
        weights = [1.0] * len(some)
    mean = math.fsum(triple[1] * weight for triple, weight in zip(some, weights, strict=True)) / math.fsum(weights)
    return _triple(min(triple[0] for triple in some), mean, max(triple[2] for triple in some), covered, target)


# --- What is shown ----------------------------------------------------------------------------------------------------


def gaps(times: Floats, start: float, end: float, apart_seconds: float) -> list[tuple[float, float]]:
    """The stretches between `start` and `end` that are longer than `apart_seconds` and in which no time lies."""
    known = np.concatenate(([start], times[(times > start) & (times < end)], [end]))
    wide = np.flatnonzero(np.diff(known) > apart_seconds)
    return [(float(known[index]), float(known[index + 1])) for index in wide]


def grouped(points: Points, seconds: float) -> Points:
    """Points of intervals as points of longer ones, aligned at multiples of `seconds`; no extreme is lost."""
    if not len(points.time):
        return points
    bins = points.time // seconds
    filled, first = np.unique(bins, return_index=True)
    counts = np.diff(np.append(first, len(bins)))
    return Points(
        time=filled * seconds + seconds / 2,
        low=np.minimum.reduceat(points.low, first),
        mean=np.add.reduceat(points.mean, first) / counts,
        high=np.maximum.reduceat(points.high, first),
    )


def line(points: Points, apart_seconds: float, max_points: int) -> Line:
    """The points as the API answers them, thinned by min/max where there are too many, with each gap as one None."""
    breaks = points.time[:-1][np.diff(points.time) > apart_seconds] if len(points.time) > 1 else points.time[:0]
    if len(points.time) > max_points:
        chosen = _chosen(points, max_points)
        points = Points(points.time[chosen], points.low[chosen], points.mean[chosen], points.high[chosen])
    at = np.searchsorted(points.time, breaks, side="right")
    times = np.insert(points.time, at, breaks + apart_seconds / 2)
    return Line(
        time=[round(value, 3) for value in times.tolist()],
        mean=_figures(points.mean, at), min=_figures(points.low, at), max=_figures(points.high, at),
    )  # fmt: skip


def _chosen(points: Points, max_points: int) -> NDArray[np.intp]:
    room = max(4, (max_points - 2) // 2 * 2)
    picked = MinMaxDownsampler().downsample(points.time, np.ascontiguousarray(points.mean), n_out=room)
    return np.unique(np.concatenate((picked, [0, len(points.time) - 1]))).astype(np.intp)


def _figures(values: Floats, breaks: NDArray[np.intp]) -> list[float | None]:
    with_gaps = np.insert(values, breaks, np.nan)
    return [None if math.isnan(value) else _rounded(value) for value in with_gaps.tolist()]
