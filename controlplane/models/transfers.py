"""Files on their way between the library (the control plane's home) and hosts, and what hosts hold. Web process.

An item is what travels as one: kind and id of `monitoring.file_items`. `title` is what a person calls it.
"""

from django.db import models
from django.utils import timezone

from controlplane.models.hosts import Host


class Direction(models.TextChoices):
    """To a host that needs it, or home into the library."""

    OUT = "out"
    HOME = "home"


class TransferState(models.TextChoices):
    """Where a transfer stands. Changed by `services.transfers` alone."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({TransferState.WAITING, TransferState.RUNNING})


class Transfer(models.Model):
    """One item between the library and one host.

    `fault`: why it failed, or what it waits for; `fault_code` and `fix` go with it. `damaged_blocks`: how many had to
    be asked for again. `tries`: how often what had come was thrown away. `is_checking`: files are compared, not copied.
    """

    item_kind = models.CharField(max_length=12)
    item_id = models.CharField(max_length=80)
    title = models.CharField(max_length=250)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="transfers")
    direction = models.CharField(max_length=4, choices=Direction.choices)
    state = models.CharField(max_length=10, choices=TransferState.choices, default=TransferState.WAITING)
    bytes_done = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(null=True, blank=True)
    bytes_per_second = models.FloatField(null=True, blank=True)
    is_checking = models.BooleanField(default=False)
    damaged_blocks = models.PositiveIntegerField(default=0)
    tries = models.PositiveIntegerField(default=0)
    fault = models.TextField(blank=True)
    fault_code = models.CharField(max_length=40, blank=True)
    fix = models.TextField(blank=True)
    not_before = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["state", "host"]), models.Index(fields=["item_kind", "item_id"])]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "item_kind", "item_id", "direction"],
                condition=models.Q(state__in=["waiting", "running"]),
                name="one_live_transfer",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} {self.direction} {self.host_id}"

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at the present speed, or None where that isn't known."""
        if self.bytes_total is None or not self.bytes_per_second:
            return None
        return max(0, self.bytes_total - self.bytes_done) / self.bytes_per_second


class HostCopy(models.Model):
    """An item that a host apart from the library holds, hash by hash. `used_at`: when a job last asked for it there."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="copies")
    item_kind = models.CharField(max_length=12)
    item_id = models.CharField(max_length=80)
    title = models.CharField(max_length=250)
    bytes = models.BigIntegerField()
    used_at = models.DateTimeField(default=timezone.now)
    arrived_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-used_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["host", "item_kind", "item_id"], name="copy_once_a_host")]

    def __str__(self) -> str:
        return f"{self.title} on {self.host_id}"
