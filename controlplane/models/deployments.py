"""Models that are being served. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.hosts import Host
from controlplane.models.jobs import Job
from controlplane.models.language_models import EngineName, LanguageModel


class DeploymentStatus(models.TextChoices):
    """Where a deployment stands."""

    STARTING = "starting"
    CHECKING = "checking"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


LIVE = frozenset({DeploymentStatus.STARTING, DeploymentStatus.CHECKING, DeploymentStatus.READY})


class Deployment(models.Model):
    """One inference process for one model. At most one is active: its model answers when nobody names one.

    `kept`: it serves its model by name whatever model is active; one that isn't ends with its model's turn. `swaps`: it
    starts when the engines before it have ended, since memory doesn't allow both; `replaced` is the model that was
    active before it, `activated_at` when it took that one's place.
    `runs_with`: the present process's settings, as it told them when it could answer ({}: not yet). `statistics` are
    its own figures; `served` counts over all its processes, and what the GPUs had
    drawn when the first one became ready (`services.energy`).
    """

    model = models.ForeignKey(LanguageModel, on_delete=models.PROTECT, related_name="deployments")
    job = models.OneToOneField(Job, on_delete=models.CASCADE, related_name="deployment")
    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.PROTECT)
    status = models.CharField(max_length=10, choices=DeploymentStatus.choices, default=DeploymentStatus.STARTING)
    port = models.PositiveIntegerField(null=True, blank=True)
    attempt_number = models.PositiveIntegerField(default=0)
    is_active = models.BooleanField(default=False)
    wants_active = models.BooleanField(default=True)
    kept = models.BooleanField(default=False)
    swaps = models.BooleanField(default=False)
    replaced = models.ForeignKey(LanguageModel, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    activated_at = models.DateTimeField(null=True, blank=True)
    check_text = models.TextField(blank=True)
    error = models.TextField(blank=True)
    runs_with = models.JSONField(default=dict)
    statistics = models.JSONField(default=dict)
    served = models.JSONField(default=dict)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    ready_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_active"], condition=models.Q(is_active=True), name="one_active_deployment"
            ),
        ]

    def __str__(self) -> str:
        return f"deployment {self.pk} of {self.model_id}"

    @property
    def runs_as(self) -> str:
        """In a few words what its process runs with; empty where it hasn't told."""
        told = self.runs_with
        if not told:
            return ""
        bits, dtype = told.get("bits"), told.get("dtype")
        dtype = "" if dtype == "auto" else dtype  # vLLM doesn't say what it made of that
        if told.get("engine") == EngineName.LLAMA_CPP:
            forms = [f"GGUF {told['gguf']}" if told.get("gguf") else "the smallest GGUF", dtype and f"cache {dtype}"]
        elif bits:
            forms = [f"{bits} bits, computed in {dtype}" if dtype else f"{bits} bits"]
        else:
            forms = [dtype]
        return " · ".join(form for form in (*forms, f"{told.get('max_batch')} at once") if form)


class Split(models.Model):
    """A name behind which several models answer: `parts` is [{"model", "weight"}], each request goes to one of them."""

    name = models.CharField(max_length=200, unique=True)
    parts = models.JSONField(default=list)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
