"""Chains of runs: each starts from the model that the one before it made. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.language_models import LanguageModel


class Chain(models.Model):
    """A line of runs. `current` is what the next one starts from; None: nothing was trained yet, it starts from `base`.

    `locked` holds, by the path of the setting, what all its runs must share (`hyperparams.max_length` and its likes).
    """

    name = models.CharField(max_length=100, unique=True)
    base = models.ForeignKey(LanguageModel, on_delete=models.PROTECT, related_name="chains_from")
    current = models.ForeignKey(
        LanguageModel, null=True, blank=True, on_delete=models.PROTECT, related_name="chains_at"
    )
    locked = models.JSONField(default=dict)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def start(self) -> LanguageModel:
        """The model that the next run starts from."""
        return self.current or self.base
