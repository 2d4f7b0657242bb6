"""What somebody should look at, and who is told. Runs in the web process."""

from django.db import models
from django.utils import timezone


class Severity(models.TextChoices):
    """How urgent: `info` is good to know, `warning` wants a look, `critical` wants somebody now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


RANK: dict[str, int] = {word: rank for rank, word in enumerate(Severity.values)}
"""Severities in order: the higher the more urgent."""


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
    """Where alerts are sent. `url` is Apprise's address, secrets and all: only `services.sending` reads it.

    `masked_url` and `service` are what may be shown of it. `rules` empty: all of them. Between `quiet_from` and
    `quiet_until` (local time; past midnight where `until` is the smaller) only critical alerts go out at once.
    """

    name = models.CharField(max_length=100, unique=True)
    url = models.TextField()
    masked_url = models.TextField()
    service = models.CharField(max_length=100)
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


class DeliveryStatus(models.TextChoices):
    """What became of a delivery. `failed`: given up; `dropped`: no longer wanted when its time came."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    DROPPED = "dropped"


class DeliveryEvent(models.TextChoices):
    """What a delivery tells: that it began, that it still goes on, that it is over."""

    FIRED = "fired"
    REMINDER = "reminder"
    ENDED = "ended"


class AlertDelivery(models.Model):
    """One alert to be sent over one route, with what became of it.

    `not_before`: when it is due; of one that is being sent, when its sender counts as dead and it is sent again.
    """

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    route = models.ForeignKey(AlertRoute, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=8, choices=DeliveryEvent.choices, default=DeliveryEvent.FIRED)
    status = models.CharField(max_length=10, choices=DeliveryStatus.choices, default=DeliveryStatus.WAITING)
    tries = models.PositiveIntegerField(default=0)
    not_before = models.DateTimeField(default=timezone.now)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["status", "not_before"])]
        constraints = [models.UniqueConstraint(fields=["alert", "route", "event"], name="alert_sent_once")]

    def __str__(self) -> str:
        return f"{self.alert_id} over {self.route_id}: {self.status}"
