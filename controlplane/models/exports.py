"""Models exported to one file, for llama.cpp and the programs built on it. Runs in the web process."""

from pathlib import Path

from django.db import models
from django.utils import timezone

from controlplane.models.jobs import Job
from controlplane.models.language_models import LanguageModel
from monitoring.files import EXPORTS_FOLDER


class ExportKind(models.TextChoices):
    """How the weights are stored: the smallest first, which is the fastest on a processor too."""

    Q4_K_M = "Q4_K_M"
    Q8_0 = "Q8_0"
    F16 = "F16"
    F32 = "F32"


class ModelExport(models.Model):
    """A GGUF file of a model, made by a job; it is there once its hash is known."""

    model = models.ForeignKey(LanguageModel, on_delete=models.CASCADE, related_name="exports")
    kind = models.CharField(max_length=10, choices=ExportKind.choices)
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    size_bytes = models.BigIntegerField(null=True, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["model", "kind"]
        constraints = [models.UniqueConstraint(fields=["model", "kind"], name="one_export_of_a_kind")]

    def __str__(self) -> str:
        return f"{self.model.name} as {self.kind}"

    @property
    def path(self) -> Path:
        """Where the file lies on this machine, once it is there."""
        return self.model.folder / EXPORTS_FOLDER / f"{self.kind}.gguf"

    @property
    def filename(self) -> str:
        """What it is called by whoever downloads it."""
        return f"{self.model.name.rpartition('/')[2]}-{self.kind}.gguf"

    @property
    def state(self) -> str:
        """`ready`, `failed`, or `making` while its job is not over."""
        if self.sha256:
            return "ready"
        return "failed" if self.job is None or self.job.has_ended else "making"
