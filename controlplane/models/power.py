"""When power profiles change by themselves. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.hosts import Gpu, Host


class PowerSchedule(models.Model):
    """A profile from one time of day to another (local time; past midnight where `until` is the smaller).

    On all hosts where neither `host` nor `gpu` is set. `days` lists weekdays on which it begins, 0 is Monday. At its
    end the GPUs get `profile_after`. `applied_since` is set while it is in force. Edges before `effective_from` don't
    count: it was made, changed or switched on then.
    """

    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.CASCADE, related_name="schedules")
    gpu = models.ForeignKey(Gpu, null=True, blank=True, on_delete=models.CASCADE, related_name="schedules")
    profile = models.CharField(max_length=20)
    profile_after = models.CharField(max_length=20, default="normal")
    begins = models.TimeField()
    until = models.TimeField()
    days = models.JSONField(default=list)
    is_enabled = models.BooleanField(default=True)
    effective_from = models.DateTimeField(default=timezone.now)
    applied_since = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["begins", "id"]

    def __str__(self) -> str:
        return f"{self.profile} {self.begins:%H:%M}–{self.until:%H:%M}"
