"""What each GPU drew a day, whoever used it, from the history of its power. Runs in the web process.

Read from the means of minutes (`services.telemetry` keeps them for a month): a minute in which a GPU's power was read
counts as a whole one, any other not at all. The last minute or two aren't there yet.
"""

from datetime import datetime
from typing import Any, TypedDict

from django.db.models.fields.json import KeyTransform
from django.utils import timezone

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import Gpu, TelemetrySample
from controlplane.services import energy, settings

MINUTE = 60
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
    days = [row for card in Gpu.objects.select_related("host") for row in _days(card, begin, end, price)]
    days.sort(key=lambda row: (row["day"], row["host"], row["gpu"]))
    kwh = sum(row["kwh"] for row in days)
    return {
        "from": begin.isoformat(), "to": end.isoformat(), "days": days, "kwh": kwh if days else None,
        "cost": kwh * price if days and price else None, "currency": settings.get("energy.currency") if price else None,
    }  # fmt: skip


def _days(card: Gpu, begin: datetime, end: datetime, price: float) -> list[DayTotal]:
    joules: dict[str, float] = {}
    seconds: dict[str, float] = {}
    triple = KeyTransform(f"{card.uuid}/power_draw_watts", "values")
    rows = TelemetrySample.objects.filter(
        host=card.host, resolution_seconds=MINUTE, time__gte=begin, time__lt=end
    ).annotate(watts=KeyTransform("1", triple))
    for at, watts in rows.filter(watts__isnull=False).values_list("time", "watts"):
        day = timezone.localtime(at).date().isoformat()
        joules[day] = joules.get(day, 0.0) + float(watts) * MINUTE
        seconds[day] = seconds.get(day, 0.0) + MINUTE
    return [
        DayTotal(
            day=day, host=card.host.name, gpu=card.index, gpu_uuid=card.uuid, gpu_name=card.name, joules=amount,
            kwh=amount / energy.JOULES_PER_KWH, covered_seconds=seconds[day],
            cost=amount / energy.JOULES_PER_KWH * price if price else None,
        )
        for day, amount in joules.items()
    ]  # fmt: skip
