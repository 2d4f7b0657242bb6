"""The further hosts of an attempt that runs on several. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.hosts import Host
from controlplane.models.jobs import Attempt


class Member(models.Model):
    """The process of an attempt on one more host; the attempt's own is number 0, leads and alone tells events.

    `offset` is how far what it wrote is read: of that only its error and its exit count.
    """

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="members")
    number = models.PositiveIntegerField()
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="memberships")
    gpus = models.JSONField(default=list)
    offset = models.BigIntegerField(default=0)
    launched = models.BooleanField(default=False)
    error = models.JSONField(null=True, blank=True)
    exit = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["attempt", "number"], name="member_number_once"),
            models.UniqueConstraint(fields=["attempt", "host"], name="member_once_a_host"),
        ]

    def __str__(self) -> str:
        return f"{self.attempt} on {self.host_id}"
