"""What hosts reported over time. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.hosts import Host
from controlplane.models.jobs import Job


class TelemetrySample(models.Model):
    """A host's figures at a time, by the names of `monitoring.wire.HostSample`.

    At a resolution of 1 s `values` holds name → figure; at 10, 60 and 900 s name → [minimum, mean, maximum] of the
    samples of that interval, which begins at `time`; where they cover a part of it alone, a fourth is those seconds.
    """

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="samples")
    time = models.DateTimeField()
    resolution_seconds = models.PositiveIntegerField(default=1)
    values = models.JSONField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["host", "resolution_seconds", "time"], name="telemetry_sample_once")
        ]

    def __str__(self) -> str:
        return f"{self.host_id} at {self.time}"


class EnergyAccount(models.Model):
    """What one GPU drew for one job: the integral of its power draw while the job ran on it.

    `covered_seconds` is the time that samples speak for; `gap_seconds` the time that none does: joules of gaps are not
    guessed. `last_time` (Unix seconds) and `last_watts` are where the integral stands.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="energy")
    gpu_uuid = models.CharField(max_length=80)
    joules = models.FloatField(default=0)
    covered_seconds = models.FloatField(default=0)
    gap_seconds = models.FloatField(default=0)
    last_time = models.FloatField(null=True, blank=True)
    last_watts = models.FloatField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "gpu_uuid"], name="energy_account_once")]

    def __str__(self) -> str:
        return f"job {self.job_id} on {self.gpu_uuid}"


class SweepStatus(models.TextChoices):
    """Where a sweep stands."""

    WAITING = "waiting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN_SWEEPS = frozenset({SweepStatus.WAITING, SweepStatus.RUNNING, SweepStatus.CANCELLING})


class PowerSweep(models.Model):
    """A measurement of one served model on one GPU at each power profile; only one is open a GPU.

    `config`: what was asked (seconds_per_profile, concurrency, max_tokens, prompt), what to put back at the end
    (`restore`: {profile, answer, set_at, watts}; `asked`: whether any may have been set; `profile`: what was last),
    where it stands (`progress`: {profile, phase, seconds}), and while a put-back is refused how it will end (`ending`).
    `results`: [{profile, watts, tokens_per_second, joules_per_token, mean_draw_watts, seconds, tokens, error}], in
    order; `error` says why a profile has no figures.
    """

    model_name = models.CharField(max_length=200)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="sweeps")
    gpu_uuid = models.CharField(max_length=80)
    status = models.CharField(max_length=10, choices=SweepStatus.choices, default=SweepStatus.WAITING)
    config = models.JSONField(default=dict)
    results = models.JSONField(default=list)
    recommended = models.CharField(max_length=20, blank=True)
    reason = models.TextField(blank=True)
    error = models.TextField(blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "gpu_uuid"],
                condition=models.Q(status__in=["waiting", "running", "cancelling"]),
                name="sweep_open_once",
            )
        ]

    def __str__(self) -> str:
        return f"sweep {self.pk} of {self.model_name}"
