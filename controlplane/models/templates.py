"""Settings of a run under a name, to be used again. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.datasets import Dataset
from controlplane.models.language_models import LanguageModel


class RunTemplate(models.Model):
    """A configuration that runs are started from.

    `config` is a part of TrainerConfig, nested by section: what differs from the defaults. What is a run's own (its
    folder, the model's locked facts) is not in it; dataset and model stand beside it and may be left open.
    """

    name = models.CharField(max_length=100, unique=True)
    description = models.CharField(max_length=500, blank=True)
    config = models.JSONField(default=dict)
    model = models.ForeignKey(LanguageModel, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
