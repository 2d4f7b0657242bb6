"""Sweeps of training runs: one configuration, with several values of some of its settings. Runs in the web process.

`RunSweep` is not `PowerSweep`, which measures a served model at each power profile.
"""

from django.db import models
from django.utils import timezone

from controlplane.models.datasets import Dataset
from controlplane.models.language_models import LanguageModel
from controlplane.models.runs import Run


class SweepMethod(models.TextChoices):
    """How the next values are chosen."""

    GRID = "grid"
    RANDOM = "random"
    TPE = "tpe"


class SweepMetric(models.TextChoices):
    """What is made as small as possible."""

    EVAL_LOSS = "eval_loss"
    LOSS = "loss"


class SweepState(models.TextChoices):
    """Where a sweep stands; paused and stopped ones start no run."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    STOPPED = "stopped"


class TrialState(models.TextChoices):
    """Where a trial stands: `running` from when its run is queued."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class RunSweep(models.Model):
    """What is tried and how.

    `config` is what all runs have, as `services.runs.create` takes it; `space` is what differs:
    [{field, values}] or [{field, low, high, log, step}]. `reason` says why it was paused by itself, or ended.
    """

    name = models.CharField(max_length=150)
    method = models.CharField(max_length=8, choices=SweepMethod.choices)
    metric = models.CharField(max_length=12, choices=SweepMetric.choices, default=SweepMetric.EVAL_LOSS)
    space = models.JSONField()
    config = models.JSONField(default=dict)
    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="run_sweeps")
    model = models.ForeignKey(LanguageModel, on_delete=models.PROTECT, related_name="run_sweeps")
    profile = models.CharField(max_length=50, default="plain")
    priority = models.CharField(max_length=8, default="normal")
    max_trials = models.PositiveIntegerField()
    max_parallel = models.PositiveIntegerField(default=1)
    seed = models.PositiveIntegerField(default=42)
    state = models.CharField(max_length=8, choices=SweepState.choices, default=SweepState.RUNNING)
    reason = models.TextField(blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.pk} · {self.name}"

    @property
    def fields(self) -> list[str]:
        """The paths of the settings that differ."""
        return [str(item["field"]) for item in self.space]

    @property
    def has_ended(self) -> bool:
        """Whether no more runs will be started."""
        return self.state in (SweepState.DONE, SweepState.STOPPED)


class RunTrial(models.Model):
    """One choice of values and its run. `params` maps paths to values, `number` counts from 1.

    `run` is None once the run was deleted; `value` is the metric of a trial that is done.
    """

    sweep = models.ForeignKey(RunSweep, on_delete=models.CASCADE, related_name="trials")
    number = models.PositiveIntegerField()
    params = models.JSONField()
    run = models.OneToOneField(Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="trial")
    state = models.CharField(max_length=8, choices=TrialState.choices, default=TrialState.RUNNING)
    value = models.FloatField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["sweep", "number"], name="trial_once")]

    def __str__(self) -> str:
        return f"sweep {self.sweep_id} trial {self.number}"
