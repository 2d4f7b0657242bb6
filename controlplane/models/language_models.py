"""Language models: fetched, registered or trained. Runs in the web process."""

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone

from controlplane.models.jobs import Job


class ModelState(models.TextChoices):
    """Whether a model can be used."""

    FETCHING = "fetching"
    READY = "ready"
    FAILED = "failed"


class LanguageModel(models.Model):
    """A model folder under `models/UUID/`, known to people by `name` (the API's `id`; it may hold slashes)."""

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, unique=True)
    source = models.CharField(max_length=20)
    hub_id = models.CharField(max_length=200, blank=True)
    kind = models.CharField(max_length=8, default="full")
    base = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="derived")
    state = models.CharField(max_length=10, choices=ModelState.choices, default=ModelState.FETCHING)
    error = models.TextField(blank=True)
    architecture = models.CharField(max_length=100, blank=True)
    parameters = models.BigIntegerField(null=True, blank=True)
    dtype = models.CharField(max_length=20, blank=True)
    size_bytes = models.BigIntegerField(null=True, blank=True)
    facts = models.JSONField(default=dict)
    tags = models.JSONField(default=list)
    profile = models.JSONField(default=dict)
    dataset = models.ForeignKey("controlplane.Dataset", null=True, blank=True, on_delete=models.SET_NULL)
    run = models.ForeignKey("controlplane.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="models")
    checkpoint_step = models.PositiveIntegerField(null=True, blank=True)
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        """Where its files lie on this machine."""
        return Path(settings.HOME) / "models" / str(self.uuid)
