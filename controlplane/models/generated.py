"""Data that models generate, row by row until it is a dataset. Runs in the web process."""

from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone

from controlplane.models.datasets import Dataset
from controlplane.models.jobs import Job
from controlplane.models.language_models import LanguageModel


class Strategy(models.TextChoices):
    """How examples are made."""

    ANSWER = "answer"
    PARAPHRASE = "paraphrase"
    SELF_INSTRUCT = "self_instruct"
    REGIME3 = "regime3"


class ReviewState(models.TextChoices):
    """What was decided about a generated row. Only accepted ones become a dataset."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class DataGeneration(models.Model):
    """A job of kind `data_gen`: what a model makes of seeds (`regime3` needs neither).

    `name` is what the dataset will be called, `options` goes into the job's spec as it is. `shards_read` of its files
    are rows here; `is_read`: nothing more comes of it. Once it is a dataset (`made_at`) its rows are gone and `counts`
    says how many there were of each state. `making_since`: somebody makes the dataset at this moment. The names stay
    when what they name has gone.
    """

    name = models.CharField(max_length=200)
    job = models.OneToOneField(Job, on_delete=models.CASCADE, related_name="data_generation")
    strategy = models.CharField(max_length=16, choices=Strategy.choices)
    options = models.JSONField(default=dict)
    profile = models.JSONField(default=dict)
    model = models.ForeignKey(LanguageModel, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    model_name = models.CharField(max_length=200, blank=True)
    seeds = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    seeds_name = models.CharField(max_length=220, blank=True)
    review = models.BooleanField(default=True)
    shards_read = models.PositiveIntegerField(default=0)
    is_read = models.BooleanField(default=False)
    fault = models.TextField(blank=True)
    making_since = models.DateTimeField(null=True, blank=True)
    made_at = models.DateTimeField(null=True, blank=True)
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="generations")
    counts = models.JSONField(default=dict)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.pk} · {self.name}"

    @property
    def wanted(self) -> int:
        """How many examples are asked for."""
        wanted: int = self.options["num_examples"]
        return wanted

    @property
    def folder(self) -> Path:
        """Where its job writes shards on this machine."""
        return Path(settings.HOME) / "jobs" / str(self.job_id) / "shards"


class GeneratedExample(models.Model):
    """One generated conversation under review. `number` counts from 1 in the order in which rows were made.

    `original` is what was generated, where somebody has edited it; `seed_row` the row of the seeds that it came from.
    """

    generation = models.ForeignKey(DataGeneration, on_delete=models.CASCADE, related_name="examples")
    number = models.PositiveIntegerField()
    messages = models.JSONField()
    original = models.JSONField(null=True, blank=True)
    seed_row = models.PositiveIntegerField(null=True, blank=True)
    state = models.CharField(max_length=8, choices=ReviewState.choices, default=ReviewState.PENDING)
    edited_by = models.CharField(max_length=150, blank=True)
    decided_by = models.CharField(max_length=150, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["generation", "number"], name="generated_number_once")]
        indexes = [
            models.Index(fields=["generation", "state", "number"]),
            models.Index(fields=["generation", "state", "edited_by"]),  # counting reads this alone, and no texts
        ]

    def __str__(self) -> str:
        return f"row {self.number} of {self.generation_id}"
