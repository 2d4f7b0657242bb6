"""What each GPU drew a day, whoever used it, from the history of its power. Runs in the web process.

Read from the means of minutes, for more than two days from those of quarter hours (`services.telemetry` keeps both for
a month): an interval counts for as long as a GPU's power was read in it. The present one isn't there yet.
"""

from datetime import datetime, timedelta
from typing import Any, TypedDict

from django.utils import timezone

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import Gpu, Host, TelemetrySample
from controlplane.services import energy, hosts, rollups, settings

MINUTE, QUARTER_HOUR = 60, 900
MAX_DAYS_BY_MINUTES = 2
"""A day of minutes has 1,440 rows, each of which holds everything that the host told."""

MAX_DAYS = 32


class DayTotal(TypedDict):
    """One GPU's day (local time). `covered_seconds`: how much of it was measured."""

    day: str
    host: str
    gpu: int
    gpu_uuid: str
    gpu_name: str
    joules: float
    kwh: float
    covered_seconds: float
    cost: float | None


def totals(begin: datetime, end: datetime) -> dict[str, Any]:
    """Each day, host and GPU between two moments, and the sum. Raises InvalidInputError for a span of no sense."""
    if not begin < end or (end - begin).days > MAX_DAYS:
        fault = FieldFault("from", f"before `to`, at most {MAX_DAYS} days")
        raise InvalidInputError(f"The time must begin before it ends, and last {MAX_DAYS} days at most.", (fault,))
    price = float(settings.get("energy.price_per_kwh"))
    seconds = MINUTE if end - begin <= timedelta(days=MAX_DAYS_BY_MINUTES) else QUARTER_HOUR
    days = [row for host in hosts.list_hosts() for row in _days(host, begin, end, seconds, price)]
    days.sort(key=lambda row: (row["day"], row["host"], row["gpu"]))
    kwh = sum(row["kwh"] for row in days)
    return {
        "from": begin.isoformat(), "to": end.isoformat(), "resolution_seconds": seconds, "days": days,
        "kwh": kwh if days else None, "cost": kwh * price if days and price else None,
        "currency": settings.get("energy.currency") if price else None,
    }  # fmt: skip


def _days(host: Host, begin: datetime, end: datetime, seconds: int, price: float) -> list[DayTotal]:
    """The days of a host's GPUs."""
    names = {f"{card.uuid}/power_draw_watts": card for card in host.gpus.all()}
    if not names:
        return []
    rows = TelemetrySample.objects.filter(host=host, resolution_seconds=seconds, time__gte=begin, time__lt=end)
    joules: dict[tuple[str, str], float] = {}
    covered: dict[tuple[str, str], float] = {}
    zone = timezone.get_current_timezone()
    for at, values in rows.values_list("time", "values").iterator():
        day = at.astimezone(zone).date().isoformat()
        for name in names:
            if name in values:
                length = rollups.covered_seconds(values[name], seconds)
                joules[day, name] = joules.get((day, name), 0.0) + values[name][1] * length
                covered[day, name] = covered.get((day, name), 0.0) + length
    return [_total(day, names[name], joules[day, name], covered[day, name], price) for day, name in joules]


def _total(day: str, card: Gpu, joules: float, covered_seconds: float, price: float) -> DayTotal:
    kwh = joules / energy.JOULES_PER_KWH
    return DayTotal(
        day=day, host=card.host.name, gpu=card.index, gpu_uuid=card.uuid, gpu_name=card.name, joules=joules, kwh=kwh,
        covered_seconds=covered_seconds, cost=kwh * price if price else None,
    )  # fmt: skip
