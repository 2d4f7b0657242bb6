"""Datasets and the uploads that become them. Runs in the web process."""

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone

from controlplane.models.jobs import Job

PART_BYTES = 4 << 20


class Upload(models.Model):
    """A file on its way in, in parts of PART_BYTES under `tmp/uploads/ID/`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    filename = models.CharField(max_length=255)
    bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.filename} ({self.pk})"

    @property
    def folder(self) -> Path:
        """Where its parts lie."""
        return Path(settings.HOME) / "tmp" / "uploads" / str(self.pk)

    @property
    def part_count(self) -> int:
        """How many parts make it whole."""
        return max(1, -(-self.bytes // PART_BYTES))


class DatasetStatus(models.TextChoices):
    """Where a dataset stands."""

    RECEIVING = "receiving"
    VALIDATING = "validating"
    READY = "ready"
    REJECTED = "rejected"


class Level(models.TextChoices):
    """How thoroughly a dataset is checked."""

    QUICK = "quick"
    STANDARD = "standard"
    DEEP = "deep"


class Dataset(models.Model):
    """One version of a named set of examples. Its files lie under `datasets/SHA256/`."""

    name = models.CharField(max_length=200)
    version = models.PositiveIntegerField()
    status = models.CharField(max_length=12, choices=DatasetStatus.choices, default=DatasetStatus.RECEIVING)
    filename = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64, unique=True)
    bytes = models.BigIntegerField()
    examples = models.PositiveIntegerField(null=True, blank=True)
    report = models.JSONField(null=True, blank=True)
    reason = models.TextField(blank=True)
    eval_fraction = models.FloatField(default=0.05)
    rejected_rows = models.PositiveIntegerField(null=True, blank=True)
    generator = models.CharField(max_length=100, blank=True)
    generator_version = models.CharField(max_length=100, blank=True)
    parents = models.JSONField(default=list, blank=True)  # [{"id", "name", "version", "sha256"}]
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["name", "version"], name="dataset_version_once")]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    @property
    def folder(self) -> Path:
        """Where its files lie on this machine."""
        return Path(settings.HOME) / "datasets" / self.sha256

    @property
    def rows_path(self) -> Path:
        """The accepted rows, as the trainer reads them."""
        return self.folder / "rows.jsonl"
