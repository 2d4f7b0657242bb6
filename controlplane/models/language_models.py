"""Language models: fetched, registered or trained. Runs in the web process."""

import uuid
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from controlplane.models.jobs import Job


class ModelState(models.TextChoices):
    """Whether a model can be used."""

    FETCHING = "fetching"
    READY = "ready"
    FAILED = "failed"


class EngineName(models.TextChoices):
    """What can serve a model."""

    TRANSFORMERS = "transformers"
    LLAMA_CPP = "llama_cpp"
    VLLM = "vllm"


class LanguageModel(models.Model):
    """A model folder under `models/UUID/`, known to people by `name` (the API's `id`; it may hold slashes).

    Models of one `family` are versions of one another (`services.versions`); by itself a model is the first of its own.

    `engine` is what serves it, `gguf` the export that llama_cpp serves ("": the smallest), `engine_options` what
    differs from the defaults of `inference.settings`. `load_on_demand`: an engine is started for it when a request
    names it. `idle_unload_seconds`: its engine is ended when nobody has asked it for so long (0: never; the active one
    stays).
    """

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, unique=True)
    family = models.CharField(max_length=200)
    version = models.PositiveIntegerField(default=1)
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
    engine = models.CharField(max_length=20, choices=EngineName.choices, default=EngineName.TRANSFORMERS)
    gguf = models.CharField(max_length=10, blank=True)
    engine_options = models.JSONField(default=dict, blank=True)
    load_on_demand = models.BooleanField(default=False)
    idle_unload_seconds = models.PositiveIntegerField(default=0)
    dataset = models.ForeignKey("controlplane.Dataset", null=True, blank=True, on_delete=models.SET_NULL)
    run = models.ForeignKey("controlplane.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="models")
    checkpoint_step = models.PositiveIntegerField(null=True, blank=True)
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["family", "version"], name="one_model_a_version")]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """A model that nobody calls a version of another is the first of its own family."""
        self.family = self.family or self.name
        super().save(*args, **kwargs)

    @property
    def folder(self) -> Path:
        """Where its files lie on this machine."""
        return Path(settings.HOME) / "models" / str(self.uuid)
