"""Training runs, their checkpoints and samples. Runs in the web process."""

from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone

from controlplane.errors import ConflictError
from controlplane.models.chains import Chain
from controlplane.models.datasets import Dataset
from controlplane.models.hosts import Host
from controlplane.models.jobs import Job
from controlplane.models.language_models import LanguageModel


class Run(models.Model):
    """A job of kind `train`, with what a person calls it and what it is made of; or one that was made elsewhere.

    Of the latter (jobs of kind `external` and `import`) neither dataset nor model is known, and `config` is empty: what
    its script told of its settings is `own_config`. `heard_at` is when it last sent anything.

    `based_on` is the run whose settings it was begun with ("run again with changes"). `group`, `notes` and its tags are
    a person's words on it; `edition` counts the changes of these and of the name.
    """

    name = models.CharField(max_length=200)
    job = models.OneToOneField(Job, on_delete=models.CASCADE, related_name="run")
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.PROTECT, related_name="runs")
    model = models.ForeignKey(
        LanguageModel, null=True, blank=True, on_delete=models.PROTECT, related_name="runs_from"
    )  # fmt: skip
    chain = models.ForeignKey(Chain, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs")
    profile = models.CharField(max_length=50, default="plain")
    config = models.JSONField(default=dict)
    own_config = models.JSONField(default=dict, blank=True)
    based_on = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    last = models.JSONField(default=dict)
    last_step = models.PositiveBigIntegerField(default=0)
    total_steps = models.PositiveBigIntegerField(null=True, blank=True)
    epoch = models.FloatField(null=True, blank=True)
    last_time = models.FloatField(null=True, blank=True)
    seconds_per_step = models.FloatField(null=True, blank=True)
    group = models.CharField(max_length=100, blank=True, default="")
    notes = models.TextField(blank=True, default="")
    edition = models.PositiveIntegerField(default=1)
    heard_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["group", "id"]),
            models.Index(fields=["created_by", "id"]),
            models.Index(fields=["profile", "id"]),
        ]

    def __str__(self) -> str:
        return f"{self.pk} · {self.name}"

    @property
    def folder(self) -> Path:
        """Where its checkpoints lie on this machine."""
        return Path(settings.HOME) / "runs" / str(self.pk)

    @property
    def is_external(self) -> bool:
        """Whether it was made elsewhere: Pilothouse didn't train it and has its curves alone."""
        return self.dataset_id is None

    def require_settings(self) -> None:
        """Raises ConflictError for a run that was made elsewhere: it has no settings to train with."""
        if self.is_external:
            raise self._made_elsewhere()

    @property
    def training_set(self) -> Dataset:
        """What it trains on. Raises ConflictError for a run that was made elsewhere."""
        if self.dataset is None:
            raise self._made_elsewhere()
        return self.dataset

    @property
    def start_model(self) -> LanguageModel:
        """What it starts from. Raises ConflictError for a run that was made elsewhere."""
        if self.model is None:
            raise self._made_elsewhere()
        return self.model

    def _made_elsewhere(self) -> ConflictError:
        return ConflictError(
            f"Run {self.pk} was made outside Pilothouse: it has curves, but no dataset, model or settings to train "
            "with here. Start a new run instead."
        )


class RunWriter(models.Model):
    """Who sends points of a run that is made elsewhere, and the number of the last batch that is stored."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="writers")
    name = models.CharField(max_length=100)
    last_seq = models.PositiveBigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="run_writer_once")]

    def __str__(self) -> str:
        return f"run {self.run_id} {self.name}: {self.last_seq}"


class RunTag(models.Model):
    """One tag of a run."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=50)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="tag_once")]
        indexes = [models.Index(fields=["name", "run"])]

    def __str__(self) -> str:
        return self.name


class Checkpoint(models.Model):
    """A checkpoint that is complete on disk; `gone_at` is when retention took it away.

    `coming_from`: the host on which alone it lies until it has come home.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="checkpoints")
    step = models.PositiveIntegerField()
    path = models.CharField(max_length=250)
    bytes = models.BigIntegerField()
    loss = models.FloatField(null=True, blank=True)
    eval_loss = models.FloatField(null=True, blank=True)
    manifest_sha256 = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()
    gone_at = models.DateTimeField(null=True, blank=True)
    coming_from = models.ForeignKey(Host, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="checkpoint_once")]

    def __str__(self) -> str:
        return f"run {self.run_id} step {self.step}"


class Sample(models.Model):
    """A text that the model wrote in mid-training."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField()
    prompt = models.TextField()
    text = models.TextField()
    time = models.DateTimeField()

    class Meta:
        ordering = ["-step", "id"]

    def __str__(self) -> str:
        return f"run {self.run_id} step {self.step}"
