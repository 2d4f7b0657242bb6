"""What hosts measured, over time: stored as it comes, made coarser as it ages, read back. Runs in the web process.

An agent takes a sample a second and keeps an hour of them; a poll brings those behind `Host.samples_until`. So a web
process that was away for less than an hour misses none. All times are the host's own (Unix seconds by its clock).
"""

import logging
import math
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

import numpy as np
from django.db.models import Min, QuerySet

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.fleet.protocol import HostSample
from controlplane.models import Host, TelemetrySample
from controlplane.services import hosts, pruning, rollups, settings

log = logging.getLogger(__name__)

HOST_NAMES = (
    "cpu_percent", "load_1m", "memory_used_bytes", "network_received_bytes_per_second",
    "network_sent_bytes_per_second",
)  # fmt: skip
GPU_NAMES = (
    "power_draw_watts", "power_limit_watts", "temperature_celsius", "utilization_gpu_percent",
    "utilization_memory_percent", "memory_used_bytes", "fan_speed_percent", "clock_sm_mhz",
)  # fmt: skip
"""What a GPU's samples are called, behind its UUID and a stroke."""

CLOCK_BACK_SECONDS = 60.0
"""A clock that is this far behind the last sample was set back: the samples are read on from where it stands now."""

FEW_SAMPLES = 5
"""As many as come together while all goes well."""

AGENT_KEEPS_SECONDS = 3600.0
"""How long an agent keeps samples: what hasn't come by then never will."""

BATCH_SECONDS = 1800
"""How much is rolled up at once."""

DELETED_AT_ONCE = 2000
SHOWN_GAP_SECONDS = 5.0
MARGIN_SECONDS = 60.0
MAX_NAMES = 200
MOST_ROWS = 9000
"""No chart reads more where a coarser resolution is there: each row holds everything that the host told."""

MAX_SPAN_SECONDS = 366 * 86400.0
COARSER = {1: 10, 10: 60, 60: 900}
"""The quarter hours are there so that the chart of a month reads 2,880 rows and not 43,200."""

TAIL_SECONDS = {1: 5.0, 10: 30.0, 60: 90.0, 900: 1000.0}
"""By resolution: what lies further back than this at the end of a chart is a gap, not a row still to come."""


class History(TypedDict):
    """What `history` answers. `gaps`: stretches for which the host has no figures at all."""

    resolution_seconds: int
    series: dict[str, rollups.Line]
    gaps: list[tuple[float, float]]


# --- Storing ----------------------------------------------------------------------------------------------------------


def store(host: Host, samples: Sequence[HostSample], agent_now: float | None = None) -> list[HostSample]:
    """Stores what isn't stored yet and moves `host.samples_until`; returns what was new. Inside a transaction.

    `agent_now`: the agent's clock when it answered. What lies ahead of it was measured before the clock was set back,
    and is left out. A clock that was set back moves `samples_until` back with it.
    """
    samples = [sample for sample in samples if agent_now is None or sample["time"] <= agent_now]
    until = host.samples_until
    if until is not None and (back := _set_back_to(until, samples, agent_now)) is not None:
        log.warning("the clock of %s was set back by %.0f s: its samples are read anew", host.name, until - back)
        # Those seconds come again, and nothing is stored twice for one. What they were rolled up to stays.
        _rows(host, 1).filter(time__gt=moment(back)).delete()
        until = None
        _move(host, None)
    fresh = [sample for sample in samples if until is None or sample["time"] > until]
    if until is None or len(fresh) > FEW_SAMPLES:
        fresh = _unknown(host, fresh)
    rows = [
        TelemetrySample(host=host, time=moment(sample["time"]), values=_finite(sample["values"])) for sample in fresh
    ]
    TelemetrySample.objects.bulk_create(rows, ignore_conflicts=True, batch_size=200)
    if samples:
        _move(host, max(sample["time"] for sample in samples))
    return fresh


def _set_back_to(until: float, samples: Sequence[HostSample], agent_now: float | None) -> float | None:
    """Where the clock was set back to, or None where it wasn't."""
    seen = [sample["time"] for sample in samples] + ([] if agent_now is None else [agent_now])
    back = min(seen, default=until)
    return back if back < until - CLOCK_BACK_SECONDS else None


def _unknown(host: Host, samples: list[HostSample]) -> list[HostSample]:
    """Those that aren't in the data base: asked only where more come than one a second."""
    if not samples:
        return samples
    first, last = samples[0]["time"], samples[-1]["time"]
    rows = _rows(host, 1).filter(time__gte=moment(min(first, last)), time__lte=moment(max(first, last)))
    known = set(rows.values_list("time", flat=True))
    return [sample for sample in samples if moment(sample["time"]) not in known]


def _move(host: Host, until: float | None) -> None:
    host.samples_until = until
    Host.objects.filter(pk=host.pk).update(samples_until=until)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def moment(seconds: float) -> datetime:
    """Unix seconds as the data base's time."""
    return datetime.fromtimestamp(seconds, UTC)


def _rows(host: Host, resolution_seconds: int) -> QuerySet[TelemetrySample]:
    return TelemetrySample.objects.filter(host=host, resolution_seconds=resolution_seconds)


# --- Growing coarser --------------------------------------------------------------------------------------------------


def thin() -> None:
    """Rolls finished intervals up and takes away what is too old: the duty, for every host."""
    for host in Host.objects.all():
        if _roll_up(host) or not host.is_online:
            _prune(host)


def host_now(host: Host) -> float:
    """What a host's clock says now, as far as is known."""
    return time.time() + (host.clock_skew_seconds or 0.0)


def _roll_up(host: Host) -> bool:
    """Each resolution to the next, for every interval behind which a sample lies (or can't come any more).

    Returns whether a minute was finished.
    """
    minutes = 0
    bound = max(host.samples_until or 0.0, host_now(host) - AGENT_KEEPS_SECONDS)
    for source, target in COARSER.items():
        bound = bound // target * target
        start = _rolled_until(host, target, bound)
        if start >= bound:
            break  # what isn't due at ten seconds isn't at a minute either
        while (begin := _first(host, source, start, bound)) is not None:
            begin = begin // target * target
            start = min(begin + BATCH_SECONDS, bound)
            # Nobody else writes these rows, so the reckoning needs no transaction: others may write meanwhile.
            rows = [
                TelemetrySample(host=host, resolution_seconds=target, time=moment(at), values=values)
                for at, values in _coarser(host, source, target, begin, start).items()
            ]
            TelemetrySample.objects.bulk_create(rows, ignore_conflicts=True, batch_size=100)
            minutes += len(rows) if target == 60 else 0
    return minutes > 0


def _rolled_until(host: Host, resolution: int, bound: float) -> float:
    last = _rows(host, resolution).filter(time__lt=moment(bound)).order_by("-time").values_list("time", flat=True)
    newest = last.first()
    return 0.0 if newest is None else newest.timestamp() + resolution


def _first(host: Host, resolution: int, start: float, end: float) -> float | None:
    rows = _rows(host, resolution).filter(time__gte=moment(start), time__lt=moment(end))
    first = rows.order_by("time").values_list("time", flat=True).first()
    return None if first is None else first.timestamp()


def _coarser(host: Host, source: int, target: int, start: float, end: float) -> dict[float, dict[str, rollups.Triple]]:
    around = rollups.GAP_SECONDS if source == 1 else 0.0
    rows = _rows(host, source).filter(time__gte=moment(start - around), time__lt=moment(end + around))
    samples = [(at.timestamp(), values) for at, values in rows.order_by("time").values_list("time", "values")]
    if source == 1:
        return rollups.per_interval(samples, start, end, target)
    by_begin: dict[float, list[dict[str, rollups.Triple]]] = {}
    for at, values in samples:
        by_begin.setdefault(at // target * target, []).append(values)
    return {begin: rollups.merged(rows_of, source, target) for begin, rows_of in by_begin.items()}


def kept_seconds() -> dict[int, float]:
    """How long each resolution is kept."""
    return {
        1: settings.get("telemetry.keep_1s_hours") * 3600.0,
        10: settings.get("telemetry.keep_10s_hours") * 3600.0,
        60: (days := settings.get("telemetry.keep_60s_days") * 86400.0),
        900: days,
    }


def _prune(host: Host) -> None:
    """Takes away what is older than the settings say, but nothing that isn't rolled up yet."""
    now = host_now(host)
    for resolution, kept in kept_seconds().items():
        cutoff = now - kept - MARGIN_SECONDS
        if resolution in COARSER:
            cutoff = min(cutoff, _rolled_until(host, COARSER[resolution], now + MAX_SPAN_SECONDS))
        old = _rows(host, resolution).filter(time__lt=moment(max(cutoff, 0.0)))
        pruning.delete_slowly(old, DELETED_AT_ONCE)


# --- Reading back -----------------------------------------------------------------------------------------------------


def names_of(host: Host) -> list[str]:
    """Every name that the host's history may be asked for."""
    return [*HOST_NAMES, *(f"{gpu.uuid}/{name}" for gpu in host.gpus.all() for name in GPU_NAMES)]


def history(host_name: str, names: Sequence[str], start: float, end: float, max_points: int = 600) -> History:
    """The figures `names` of a host between two moments, at most `max_points` points each.

    The span decides the resolution; at more than 1 s a point stands for the interval around it, with its extremes. A
    None inside a series is a gap of that series. Raises NotFoundError for the host, InvalidInputError for a name that
    it doesn't have and for a span that makes no sense.
    """
    host = hosts.get(host_name)
    _check(host, names, start, end, max_points)
    resolution = _resolution(host, start, end, max_points)
    rows = _rows(host, resolution).filter(time__gte=moment(start - resolution + 1), time__lte=moment(end))
    read = rows.order_by("time").values_list("time", "values").iterator(chunk_size=500)
    found = [(at.timestamp(), _asked(values, names)) for at, values in read]
    times = np.array([at for at, _ in found], dtype=np.float64)
    shown, apart = resolution, max(SHOWN_GAP_SECONDS, 1.5 * resolution)
    if resolution > 1 and (end - start) / resolution > max_points:
        shown = resolution * math.ceil((end - start) / resolution / max_points)
    series = {name: _line(_points(found, name, resolution), resolution, shown, max_points) for name in names}
    until = min(end, host_now(host) - TAIL_SECONDS[resolution])
    return History(
        resolution_seconds=shown,
        series=series,
        gaps=[(left, right) for left, right in rollups.gaps(times, start, until, apart) if right > left],
    )


def _asked(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What of a row is kept in memory."""
    return {name: values[name] for name in names if name in values}


def _check(host: Host, names: Sequence[str], start: float, end: float, max_points: int) -> None:
    known = set(names_of(host))
    for name in names:
        if name not in known:
            choice = ", ".join(HOST_NAMES)
            raise InvalidInputError(
                f"{host.name} has no figures called {name!r}: choose {choice}, or UUID/{'|'.join(GPU_NAMES)} of one of "
                "its GPUs.",
                (FieldFault("names", f"{name!r} is not known"),),
            )
    if not names or len(names) > MAX_NAMES:
        raise InvalidInputError(f"Ask for 1 to {MAX_NAMES} names at once.", (FieldFault("names", "1 to 200 names"),))
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end and end - start <= MAX_SPAN_SECONDS):
        fault = FieldFault("from", "before `to`, and at most 366 days")
        raise InvalidInputError("The time asked for must begin before it ends, and last at most 366 days.", (fault,))
    if not 10 <= max_points <= 5000:
        raise InvalidInputError("max_points must lie between 10 and 5000.", (FieldFault("max_points", "10 to 5000"),))


def _resolution(host: Host, start: float, end: float, max_points: int) -> int:
    """The coarsest that still gives as many points as are wanted, unless that is no longer kept so far back.

    And a coarser one still where that would read too many rows.
    """
    oldest = _oldest(host)
    if oldest is not None:
        start = max(start, min(oldest, end))
    resolution = next((seconds for seconds in (900, 60, 10) if (end - start) / seconds >= max_points), 1)
    kept = kept_seconds()
    now = host_now(host)
    while resolution in COARSER and (
        start < now - kept[resolution] - MARGIN_SECONDS or (end - start) / resolution > MOST_ROWS
    ):
        resolution = COARSER[resolution]
    return resolution


def _oldest(host: Host) -> float | None:
    found = (_rows(host, seconds).aggregate(first=Min("time"))["first"] for seconds in (1, *COARSER.values()))
    return min((first.timestamp() for first in found if first is not None), default=None)


def _points(found: Iterable[tuple[float, dict[str, Any]]], name: str, resolution: int) -> rollups.Points:
    known = [(at, values[name]) for at, values in found if name in values]
    times = np.array([at for at, _ in known], dtype=np.float64)
    if resolution == 1:
        figures = np.array([value for _, value in known], dtype=np.float64)
        return rollups.Points(times, figures, figures, figures)
    triples = np.array([value[:3] for _, value in known], dtype=np.float64).reshape(-1, 3)
    return rollups.Points(times + resolution / 2, triples[:, 0], triples[:, 1], triples[:, 2])


def _line(points: rollups.Points, resolution: int, shown: int, max_points: int) -> rollups.Line:
    if shown > resolution:
        points = rollups.grouped(points, shown)
    return rollups.line(points, max(SHOWN_GAP_SECONDS, 1.5 * shown), max_points + 2)
