"""How fast a model answered, over time: what `services.usage` has written, for charts. Runs in the web process."""

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import ServedSpan
from controlplane.models.usage import DAY_SECONDS, MINUTE_SECONDS
from controlplane.services import settings
from controlplane.services.log_histogram import merged, quantile

MOST_POINTS = 300
LONGEST_HOURS = 24 * 400


def series(model_name: str, hours: int) -> dict[str, Any]:
    """The points of the last hours: by minutes, coarser so that there are few, by days beyond what minutes are kept.

    Raises InvalidInputError for hours that can't be.
    """
    if not 1 <= hours <= LONGEST_HOURS:
        raise InvalidInputError(f"hours lies between 1 and {LONGEST_HOURS}.", (FieldFault("hours", "1 or more"),))
    by_day = hours > 24 * settings.get("usage.keep_minutes_days")
    stored = DAY_SECONDS if by_day else MINUTE_SECONDS
    resolution = max(stored, -(-hours * 3600 // MOST_POINTS // stored) * stored)
    begin = timezone.now() - timedelta(hours=hours)
    grouped: dict[float, list[ServedSpan]] = {}
    for row in ServedSpan.objects.filter(model=model_name, resolution_seconds=stored, begin__gte=_floor(begin, stored)):
        grouped.setdefault(row.begin.timestamp() // resolution * resolution, []).append(row)
    points = [_point(time, rows) for time, rows in sorted(grouped.items())]
    return {"model": model_name, "resolution_seconds": resolution, "points": points}


def _floor(moment: datetime, seconds: int) -> datetime:
    return moment - timedelta(seconds=moment.timestamp() % seconds)


def _point(time: float, rows: list[ServedSpan]) -> dict[str, Any]:
    first = merged(row.first_token_seconds for row in rows)
    return {
        "time": time, "requests": sum(row.requests for row in rows), "failures": sum(row.failures for row in rows),
        "completion_tokens": sum(row.completion_tokens for row in rows),
        "first_token_median": quantile(first, 0.5), "first_token_p95": quantile(first, 0.95),
        "tokens_per_second_median": quantile(merged(row.tokens_per_second for row in rows), 0.5),
    }  # fmt: skip
