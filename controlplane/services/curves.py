"""The curves of a run: points stored in packed chunks, read back thinned. Runs in the web process.

A chunk holds up to 512 points of one key (little-endian int64 steps, float64 values and Unix seconds). Thinning is
tsdownsample's min/max: the same points at every refresh, and no spike is lost.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
from django.db.models import Max
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

from controlplane.models import MetricChunk, Run
from monitoring.events import encode_number

CHUNK_POINTS = 512
Point = tuple[int, float, float]
"""step, value, Unix seconds"""


class Series(TypedDict):
    """One curve as the API answers it; NaN and the infinities are the contract's strings."""

    step: list[int]
    value: list[float | str]
    time: list[float]


def append(run: Run, key: str, points: Sequence[Point]) -> None:
    """Adds points behind the last ones of a key. Inside the ingest transaction."""
    last = MetricChunk.objects.filter(run=run, key=key).order_by("-index").first()
    index, pending = 0, list(points)
    if last is not None:
        index = last.index + 1
        room = CHUNK_POINTS - last.count
        if room > 0:
            _fill(last, [*_unpack(last), *pending[:room]])
            last.save()
            pending = pending[room:]
    for start in range(0, len(pending), CHUNK_POINTS):
        chunk = MetricChunk(run=run, key=key, index=index)
        _fill(chunk, pending[start : start + CHUNK_POINTS])
        chunk.save()
        index += 1


def rewind(run: Run, step: int) -> bool:
    """Takes away every point beyond `step` (a resume supersedes them). Returns whether there were any."""
    beyond = MetricChunk.objects.filter(run=run, last_step__gt=step)
    if not beyond.exists():
        return False
    beyond.filter(first_step__gt=step).delete()
    for chunk in MetricChunk.objects.filter(run=run, last_step__gt=step):
        _fill(chunk, [point for point in _unpack(chunk) if point[0] <= step])
        chunk.save()
    return True


def keys(run: Run) -> list[str]:
    """The keys that a run has points of."""
    return sorted(MetricChunk.objects.filter(run=run).values_list("key", flat=True).distinct())


def last_step(run: Run) -> int:
    """The last step with a point, 0 where there is none."""
    return MetricChunk.objects.filter(run=run).aggregate(Max("last_step"))["last_step__max"] or 0


def read(run: Run, wanted: Iterable[str], after_step: int | None, max_points: int) -> dict[str, Series]:
    """The series of each wanted key, at most `max_points` points each."""
    return {key: _thinned(*_points(run, key, after_step), max_points) for key in wanted}


def _points(
    run: Run, key: str, after_step: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    rows = MetricChunk.objects.filter(run=run, key=key).order_by("index")
    if after_step is not None:
        rows = rows.filter(last_step__gt=after_step)
    packed = list(rows.values_list("steps", "values", "times"))
    steps = np.frombuffer(b"".join(bytes(row[0]) for row in packed), dtype="<i8")
    values = np.frombuffer(b"".join(bytes(row[1]) for row in packed), dtype="<f8")
    times = np.frombuffer(b"".join(bytes(row[2]) for row in packed), dtype="<f8")
    if after_step is not None:
        kept = steps > after_step
        steps, values, times = steps[kept], values[kept], times[kept]
    return steps, values, times


def _thinned(
    steps: NDArray[np.int64], values: NDArray[np.float64], times: NDArray[np.float64], max_points: int
) -> Series:
    if len(steps) > max_points:
        chosen = _chosen(steps, values, max_points)
        steps, values, times = steps[chosen], values[chosen], times[chosen]
    return Series(
        step=steps.tolist(),
        value=[value if math.isfinite(value) else encode_number(value) for value in values.tolist()],
        time=times.tolist(),
    )


def _chosen(steps: NDArray[np.int64], values: NDArray[np.float64], max_points: int) -> NDArray[np.intp]:
    """The indices that stay: the extremes of each bin, the ends, and the first of each run of NaN (a gap must show)."""
    finite = np.isfinite(values)
    broken = np.flatnonzero(~finite & np.concatenate(([True], finite[:-1])))[: max_points // 10]
    room = max(4, (max_points - len(broken) - 2) // 2 * 2)
    numbers = np.flatnonzero(finite)
    if len(numbers) > room:
        picked = MinMaxDownsampler().downsample(steps[numbers], np.ascontiguousarray(values[numbers]), n_out=room)
        numbers = numbers[picked]
    ends = np.array([0, len(values) - 1])
    return np.unique(np.concatenate((numbers, broken, ends)))


def _unpack(chunk: MetricChunk) -> list[Point]:
    steps = np.frombuffer(bytes(chunk.steps), dtype="<i8").tolist()
    values = np.frombuffer(bytes(chunk.values), dtype="<f8").tolist()
    times = np.frombuffer(bytes(chunk.times), dtype="<f8").tolist()
    return list(zip(steps, values, times, strict=True))


def _fill(chunk: MetricChunk, points: Sequence[Point]) -> None:
    chunk.count = len(points)
    chunk.first_step = points[0][0]
    chunk.last_step = points[-1][0]
    chunk.steps = np.array([point[0] for point in points], dtype="<i8").tobytes()
    chunk.values = np.array([point[1] for point in points], dtype="<f8").tobytes()
    chunk.times = np.array([point[2] for point in points], dtype="<f8").tobytes()
