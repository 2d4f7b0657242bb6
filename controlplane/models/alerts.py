"""What somebody should look at, and who is told. Runs in the web process."""

from django.db import models
from django.utils import timezone


class Severity(models.TextChoices):
    """How urgent: `info` is good to know, `warning` wants a look, `critical` wants somebody now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Alert(models.Model):
    """One thing that happened or goes on. While `ended_at` is empty it goes on; the same one is open only once.

    `rule` names what fired ("run_failed", "gpu_lost", "temperature_power"); `subject` what it is about ("run 7",
    "GPU 0 on tower"). `count` and `last_at`: how often and when it was said again while open.
    """

    rule = models.CharField(max_length=50)
    subject = models.CharField(max_length=200)
    severity = models.CharField(max_length=10, choices=Severity.choices)
    message = models.TextField()
    fix = models.TextField(blank=True)
    url = models.CharField(max_length=200, blank=True)
    count = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    last_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "subject"], condition=models.Q(ended_at=None), name="alert_open_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}"


class AlertRoute(models.Model):
    """Where alerts are sent: an Apprise URL (it holds secrets: shown masked). `rules` empty: all of them."""

    name = models.CharField(max_length=100, unique=True)
    url = models.TextField()
    minimum_severity = models.CharField(max_length=10, choices=Severity.choices, default=Severity.WARNING)
    rules = models.JSONField(default=list)
    quiet_from = models.TimeField(null=True, blank=True)
    quiet_until = models.TimeField(null=True, blank=True)
    is_enabled = models.BooleanField(default=True)
    last_error = models.TextField(blank=True)
    last_sent_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class AlertDelivery(models.Model):
    """One alert to be sent over one route, with what became of it. `event` is `fired` or `ended`."""

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    route = models.ForeignKey(AlertRoute, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=8, default="fired")
    status = models.CharField(max_length=10, default="waiting")
    tries = models.PositiveIntegerField(default=0)
    not_before = models.DateTimeField(default=timezone.now)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["alert", "route", "event"], name="alert_sent_once")]

    def __str__(self) -> str:
        return f"{self.alert_id} over {self.route_id}: {self.status}"
