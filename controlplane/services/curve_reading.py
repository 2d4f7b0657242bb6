"""The curves of a run as they are asked for: whole or between two steps, thinned. Runs in the web process.

From afar, blocks stand for the chunks that they are made of: what is read of a curve doesn't grow with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

from django.db.models import Max, Min, QuerySet

from controlplane.errors import InvalidInputError
from controlplane.live.announce import last_seq
from controlplane.models import Metric, MetricBlock, MetricChunk, Run
from controlplane.models.curves import Packed
from controlplane.services import curves
from controlplane.services.curves import BLOCK_CHUNKS, BLOCK_POINTS, CHUNK_POINTS
from controlplane.services.points import Points, joined

MAX_POINTS = 20_000
ANSWER_POINTS = 400_000
"""What one answer holds of all its curves together: of many, each is thinned further."""

FAR = 2 * BLOCK_CHUNKS
"""From so many points for each one that is wanted on, blocks do: they hold twice what is wanted."""

ROWS_AT_ONCE = 32


class Series(TypedDict):
    """One curve as the API answers it; NaN and the infinities are the contract's strings.

    `count`: how many points lie in what was asked for, as near as is known without reading them all.
    """

    step: list[int]
    value: list[float | str]
    time: list[float]
    count: int


def answer(
    run: Run, keys: Sequence[str] | None = None, after_step: int | None = None, to_step: int | None = None,
    max_points: int = 2000,
) -> dict[str, Any]:  # fmt: skip
    """The curves of a run. `last_seq` is read first: what a socket brings behind it may be here already, never less."""
    check(max_points)
    seq = last_seq(f"run:{run.pk}")
    chosen = wanted(run, keys)
    each = max(2, min(max_points, ANSWER_POINTS // max(1, len(chosen))))
    return {
        "series": read(run, chosen, after_step, each, to_step),
        "last_step": curves.last_step(run),
        "last_seq": seq,
    }


def check(max_points: int) -> None:
    """Raises InvalidInputError for more or fewer points than a curve is drawn with."""
    if not 2 <= max_points <= MAX_POINTS:
        raise InvalidInputError(f"max_points must lie between 2 and {MAX_POINTS}.")


def wanted(run: Run, asked: Sequence[str] | None) -> list[str]:
    """The keys that are meant, as far as the run has them: whole, or several with commas between; all without any."""
    known = curves.keys(run)
    if asked is None:
        return known
    there = set(known)
    meant = [key for item in asked for key in ([item] if item in there else item.split(","))]
    return [key for key in dict.fromkeys(meant) if key in there]


def outline(run: Run) -> dict[str, Any]:
    """What curves a run has: its keys with their figures, where it was resumed, and where the live topic stood."""
    seq = last_seq(f"run:{run.pk}")
    return {
        "keys": curves.described(run),
        "started": _began(run),
        "resumed": [{"step": row.step, "time": row.time} for row in run.resumptions.all()],
        "last_step": curves.last_step(run),
        "last_seq": seq,
    }


def _began(run: Run) -> float | None:
    """When the first point came, by the clock of the host; None where there is none yet."""
    metric = Metric.objects.filter(run=run).order_by("first_step", "key").first()
    if metric is None:
        return None
    first = _loaded(MetricChunk.objects.filter(run=run, key=metric.key), 0, 0)
    return float(first.times[0]) if len(first) else None


def read(
    run: Run, keys: Iterable[str], after_step: int | None, max_points: int, to_step: int | None = None
) -> dict[str, Series]:
    """The series of each key, at most `max_points` points each: those behind `after_step`, up to `to_step`."""
    keys = list(keys)
    metrics = {row.key: row for row in Metric.objects.filter(run=run, key__in=keys)}
    found: dict[str, Series] = {}
    for key in keys:
        points, count = _points(metrics[key], after_step, to_step, max_points) if key in metrics else (joined([]), 0)
        drawn = points.thinned(max_points)
        found[key] = Series(step=drawn.steps.tolist(), value=drawn.encoded(), time=drawn.times.tolist(), count=count)
    return found


def _points(metric: Metric, after: int | None, until: int | None, max_points: int) -> tuple[Points, int]:
    """The points to draw from, and how many there are in truth."""
    chunks = MetricChunk.objects.filter(run=metric.run_id, key=metric.key)
    bounds = _indices(metric, chunks, after, until)
    if bounds is None:
        return joined([]), 0
    first, last = bounds
    first_block, end_block = -(-first // BLOCK_CHUNKS), (last + 1) // BLOCK_CHUNKS
    if (last - first + 1) * CHUNK_POINTS <= FAR * max_points or end_block <= first_block:
        near = _loaded(chunks, first, last).between(after, until)
        return near, len(near)
    blocks = MetricBlock.objects.filter(run=metric.run_id, key=metric.key)
    begin, end = (
        _loaded(chunks, first, first_block * BLOCK_CHUNKS - 1),
        _loaded(chunks, end_block * BLOCK_CHUNKS, last),
    )
    count = len(begin) + (end_block - first_block) * BLOCK_POINTS + len(end)
    whole = joined([begin, _loaded(blocks, first_block, end_block - 1), end])
    return whole.between(after, until), count


def _indices(
    metric: Metric, chunks: QuerySet[MetricChunk], after: int | None, until: int | None
) -> tuple[int, int] | None:
    """The first and the last chunk with points of the span; None where none has any."""
    if (after is None or after < metric.first_step) and (until is None or until >= metric.last_step):
        return 0, (metric.count - 1) // CHUNK_POINTS
    if after is not None:
        chunks = chunks.filter(last_step__gt=after)
    if until is not None:
        chunks = chunks.filter(first_step__lte=until)
    bounds = chunks.aggregate(first=Min("index"), last=Max("index"))
    return None if bounds["first"] is None else (bounds["first"], bounds["last"])


def _loaded(rows: QuerySet[Any], first: int, last: int) -> Points:
    if last < first:
        return joined([])
    span = rows.filter(index__gte=first, index__lte=last).order_by("index")
    return Points.unpacked(span.values_list("steps", "values", "times"))


def all_points(run: Run, key: str) -> Iterator[Points]:
    """Every point of a key, some ten thousand at a time."""
    rows: QuerySet[Packed] = MetricChunk.objects.filter(run=run, key=key)
    first = 0
    while len(points := _loaded(rows, first, first + ROWS_AT_ONCE - 1)):
        yield points
        first += ROWS_AT_ONCE
