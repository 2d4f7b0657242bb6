"""Time that a test rules, and what hosts say at a moment of it. Runs in the test process."""

from datetime import datetime, timedelta
from typing import Any, Self

import pytest
from django.utils import timezone

from controlplane.models import Gpu, Host


class Clock:
    """Stands for `django.utils.timezone.now` until the test ends."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch, now: datetime | None = None) -> Self:
        """Stops the clocks."""
        clock = cls(now or timezone.now())
        monkeypatch.setattr("django.utils.timezone.now", lambda: clock.now)
        return clock

    def forward(self, seconds: float) -> None:
        """Lets time pass (or, with a negative figure, puts the clocks back)."""
        self.now += timedelta(seconds=seconds)

    def at(self, hour: int, minute: int = 0) -> None:
        """The next moment at which the clocks show that time of day."""
        shown = timezone.localtime(self.now, timezone.get_default_timezone())
        wanted = shown.replace(hour=hour, minute=minute, second=0, microsecond=0)
        self.now = wanted if wanted > shown else wanted + timedelta(days=1)


def heard(gpu: Gpu, **reading: Any) -> Gpu:
    """The host has just answered, and its card says this."""
    gpu.refresh_from_db()
    now = timezone.now()
    Host.objects.filter(pk=gpu.host_id).update(last_seen_at=now, fault="")
    Gpu.objects.filter(pk=gpu.pk).update(reading={**gpu.reading, **reading}, seen_at=now)
    gpu.refresh_from_db()
    return gpu
