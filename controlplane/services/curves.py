"""The curves of a run as they grow: points go into chunks, and each key's row tells of them. Runs in the web process.

A key's steps rise: a point at or before the last one's step is left out (a resume takes the old ones away first). 64
full chunks make a block, which is what is read of them when a curve is drawn from afar.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from django.db.models import Max, Min, Sum

from controlplane.models import Metric, MetricBlock, MetricChunk, Resumption, Run
from controlplane.models.curves import Packed
from controlplane.services.points import Point, Points
from monitoring.events import encode_number

CHUNK_POINTS = 512
BLOCK_CHUNKS = 64
BLOCK_POINTS = CHUNK_POINTS * BLOCK_CHUNKS
LONGEST_KEY = 200
_TOLD = ("count", "broken", "first_step", "last_step", "low", "high")
_ARRAYS = ("steps", "values", "times")


def stored_key(key: str) -> str:
    """The key as it is stored: text that every data base takes, the end of one that is too long told by its hash."""
    plain = key.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    if len(plain) <= LONGEST_KEY:
        return plain
    return plain[: LONGEST_KEY - 13] + "…" + hashlib.sha256(plain.encode()).hexdigest()[:12]


def append(run: Run, key: str, points: Sequence[Point]) -> None:
    """Adds points behind the last ones of a key. Inside the ingest transaction."""
    append_all(run, {key: points})


def append_all(run: Run, fresh: Mapping[str, Sequence[Point]]) -> None:
    """Adds points behind the last ones of each key. Inside the ingest transaction."""
    metrics = {row.key: row for row in Metric.objects.filter(run=run, key__in=list(fresh))}
    ends = _last_chunks(run, list(metrics.values()))
    chunks: list[MetricChunk] = []
    grown: list[Metric] = []
    full: list[tuple[str, int]] = []
    for key, given in fresh.items():
        metric = metrics.get(key) or Metric(run=run, key=key)
        points = _rising(given, metric.last_step if metric.count else None)
        if not points:
            continue
        before = metric.count // BLOCK_POINTS
        chunks += _chunks(run, metric, ends.get(key), points)
        _count_in(metric, points)
        grown.append(metric)
        full += [(key, index) for index in range(before, metric.count // BLOCK_POINTS)]
    _upsert(MetricChunk, chunks)
    Metric.objects.bulk_create(
        grown, update_conflicts=True, unique_fields=["run", "key"], update_fields=[*_TOLD, "last"]
    )
    _upsert(MetricBlock, [_block(run, key, index) for key, index in full])


def _upsert(kind: type[Packed], rows: Sequence[Packed]) -> None:
    kind.objects.bulk_create(  # type: ignore[attr-defined] # an abstract model has no manager
        rows, update_conflicts=True, unique_fields=["run", "key", "index"], update_fields=[*_TOLD, *_ARRAYS]
    )


def _last_chunks(run: Run, metrics: list[Metric]) -> dict[str, MetricChunk]:
    """The last chunk of each key, as long as it has room. Most keys have as many points: one question for those."""
    found: dict[str, MetricChunk] = {}
    open_ones = sorted((row for row in metrics if row.count % CHUNK_POINTS), key=_last_index)
    for index, rows in groupby(open_ones, key=_last_index):
        names = [row.key for row in rows]
        found |= {chunk.key: chunk for chunk in MetricChunk.objects.filter(run=run, index=index, key__in=names)}
    return found


def _last_index(metric: Metric) -> int:
    return (metric.count - 1) // CHUNK_POINTS


def _rising(given: Sequence[Point], last_step: int | None) -> list[Point]:
    kept: list[Point] = []
    for point in given:
        if last_step is None or point[0] > last_step:
            kept.append(point)
            last_step = point[0]
    return kept


def _chunks(run: Run, metric: Metric, last: MetricChunk | None, points: list[Point]) -> list[MetricChunk]:
    """The chunks that the points change or make."""
    index, changed, pending = metric.count // CHUNK_POINTS, [], list(points)
    if last is not None:
        pending = [*_unpacked(last), *pending]
    for start in range(0, len(pending), CHUNK_POINTS):
        chunk = MetricChunk(run=run, key=metric.key, index=index)
        Points.of(pending[start : start + CHUNK_POINTS]).fill(chunk)
        changed.append(chunk)
        index += 1
    return changed


def _unpacked(chunk: MetricChunk) -> list[Point]:
    points = Points.unpacked([(chunk.steps, chunk.values, chunk.times)])
    return list(zip(points.steps.tolist(), points.values.tolist(), points.times.tolist(), strict=True))


def _count_in(metric: Metric, points: list[Point]) -> None:
    told = MetricChunk()
    Points.of(points).fill(told)
    if not metric.count:
        metric.first_step = told.first_step
    metric.count += told.count
    metric.broken += told.broken
    metric.last_step = told.last_step
    metric.low = min((bound for bound in (metric.low, told.low) if bound is not None), default=None)
    metric.high = max((bound for bound in (metric.high, told.high) if bound is not None), default=None)
    metric.last = encode_number(points[-1][1])


def _block(run: Run, key: str, index: int) -> MetricBlock:
    first = index * BLOCK_CHUNKS
    rows = MetricChunk.objects.filter(run=run, key=key, index__gte=first, index__lt=first + BLOCK_CHUNKS)
    whole = Points.unpacked(rows.order_by("index").values_list(*_ARRAYS))
    block = MetricBlock(run=run, key=key, index=index)
    whole.thinned(CHUNK_POINTS).fill(block, whole)
    return block


def rewind(run: Run, step: int) -> bool:
    """Takes away every point beyond `step` (a resume supersedes them). Returns whether there were any."""
    metrics = list(Metric.objects.filter(run=run, last_step__gt=step))
    if not metrics:
        return False
    _cut_off(step, run=run)
    for metric in metrics:
        _count_anew(metric)
    return True


def rewind_key(run: Run, key: str, step: int) -> int:
    """Takes the points of one key beyond `step` away; returns how many there were."""
    metric = Metric.objects.filter(run=run, key=key, last_step__gt=step).first()
    if metric is None:
        return 0
    _cut_off(step, run=run, key=key)
    _count_anew(metric)
    left = Metric.objects.filter(run=run, key=key).values_list("count", flat=True).first()
    return metric.count - (left or 0)


def _cut_off(step: int, **whose: Any) -> None:
    MetricBlock.objects.filter(**whose, last_step__gt=step).delete()
    beyond = MetricChunk.objects.filter(**whose, last_step__gt=step)
    beyond.filter(first_step__gt=step).delete()
    for chunk in beyond:
        Points.unpacked([(chunk.steps, chunk.values, chunk.times)]).between(None, step).fill(chunk)
        chunk.save()


def _count_anew(metric: Metric) -> None:
    chunks = MetricChunk.objects.filter(run=metric.run_id, key=metric.key)
    told = chunks.aggregate(
        count=Sum("count"), broken=Sum("broken"), first_step=Min("first_step"), last_step=Max("last_step"),
        low=Min("low"), high=Max("high"),
    )  # fmt: skip
    if not told["count"]:
        metric.delete()
        return
    last = chunks.order_by("index").values_list(*_ARRAYS).last()
    value = Points.unpacked([last] if last else []).values[-1]
    Metric.objects.filter(pk=metric.pk).update(**told, last=encode_number(float(value)))


def resumed(run: Run, step: int, time: float) -> None:
    """Notes that the run went on from a step; what lay beyond it is gone, earlier resumptions too."""
    run.resumptions.filter(step__gt=step).delete()
    if step > 0:
        Resumption.objects.create(run=run, step=step, time=time)


def keys(run: Run) -> list[str]:
    """The keys that a run has points of."""
    return list(Metric.objects.filter(run=run).order_by("key").values_list("key", flat=True))


def last_values(run: Run) -> dict[str, Any]:
    """The last value of each key, as `Run.last` has it."""
    return dict(Metric.objects.filter(run=run).values_list("key", "last"))


def last_step(run: Run) -> int:
    """The last step with a point, 0 where there is none."""
    return Metric.objects.filter(run=run).aggregate(Max("last_step"))["last_step__max"] or 0


def described(run: Run) -> list[dict[str, Any]]:
    """Each key with what is known of it: nothing of the chunks is read."""
    return [
        {
            "key": row.key, "count": row.count, "broken": row.broken, "first_step": row.first_step,
            "last_step": row.last_step, "last": row.last, "min": row.low, "max": row.high,
        }
        for row in Metric.objects.filter(run=run).order_by("key")
    ]  # fmt: skip
