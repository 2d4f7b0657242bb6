"""Evaluations of models and checkpoints, and what is to be activated when it is better. Runs in the web process."""

from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone

from controlplane.models.datasets import Dataset
from controlplane.models.jobs import Job
from controlplane.models.language_models import LanguageModel
from controlplane.models.runs import Run

EXAMPLES_FILE = "examples.jsonl"


class RowChoice(models.TextChoices):
    """Which rows of a dataset are asked."""

    HELD_OUT = "held_out"
    ALL = "all"


class Evaluation(models.Model):
    """A job of kind `eval`: one model, or one checkpoint of a run, on rows of one dataset.

    `checkpoint_sha256` is its manifest's when it was asked for. `take` rows in the order of `seed` (0: all). `figures`
    holds {metric: {"value", "low", "high"}} once it is done. The names stay when what they name has gone.
    """

    name = models.CharField(max_length=200)
    job = models.OneToOneField(Job, on_delete=models.CASCADE, related_name="evaluation")
    model = models.ForeignKey(
        LanguageModel, null=True, blank=True, on_delete=models.SET_NULL, related_name="evaluations"
    )
    model_name = models.CharField(max_length=200)
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="evaluations")
    checkpoint_step = models.PositiveIntegerField(null=True, blank=True)
    checkpoint_sha256 = models.CharField(max_length=64, blank=True)
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="evaluations")
    dataset_name = models.CharField(max_length=220)
    rows = models.CharField(max_length=8, choices=RowChoice.choices)
    take = models.PositiveIntegerField(default=0)
    seed = models.PositiveBigIntegerField(default=42)
    metrics = models.JSONField(default=list)
    max_tokens = models.PositiveIntegerField(default=256)
    pattern = models.CharField(max_length=500, blank=True)
    keep_texts = models.BooleanField(default=True)
    figures = models.JSONField(null=True, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.pk} · {self.name}"

    @property
    def is_of_checkpoint(self) -> bool:
        """Whether it is a run's checkpoint that is evaluated, and not a registered model."""
        return self.checkpoint_step is not None

    @property
    def same_rows(self) -> tuple[int | None, str, int, int]:
        """What evaluations share that asked the same rows."""
        return self.dataset_id, self.rows, self.take, self.seed

    def log_path(self, attempt: int) -> Path:
        """Where an attempt of its job logs each row on this machine."""
        return Path(settings.HOME) / "jobs" / str(self.job_id) / "attempts" / str(attempt) / EXAMPLES_FILE


class PromotionState(models.TextChoices):
    """How far a promotion is."""

    EVALUATING = "evaluating"
    REGISTERING = "registering"
    ACTIVATED = "activated"
    REFUSED = "refused"
    FAILED = "failed"


class Promotion(models.Model):
    """A model or checkpoint that is activated if it beats the active model, with a confidence, by one metric.

    `sentence` says how it came out. `champion` is the active model's evaluation on the same rows.
    """

    candidate = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="promotions")
    champion = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="+")
    metric = models.CharField(max_length=20)
    confidence = models.FloatField(default=0.95)
    state = models.CharField(max_length=12, choices=PromotionState.choices, default=PromotionState.EVALUATING)
    sentence = models.TextField(blank=True)
    model = models.ForeignKey(LanguageModel, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"promotion {self.pk} of {self.candidate_id}"
