"""Models that are being served. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.hosts import Host
from controlplane.models.jobs import Job
from controlplane.models.language_models import LanguageModel


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
    """One inference process for one model. At most one is active: the one that answers when nobody names a model.

    `statistics` are the present process's own figures; `served` counts over all its processes, and what the GPUs had
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
    check_text = models.TextField(blank=True)
    error = models.TextField(blank=True)
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
