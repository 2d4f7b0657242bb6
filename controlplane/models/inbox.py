"""Files that came by the inbox, and what became of each. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.datasets import Dataset
from controlplane.models.jobs import Priority
from controlplane.models.runs import Run


class InboxState(models.TextChoices):
    """Where a file stands. `taking`: it has left the inbox and is hashed; `failed`: its run has failed."""

    SETTLING = "settling"
    TAKING = "taking"
    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"


OVER = frozenset({InboxState.DONE, InboxState.FAILED, InboxState.REJECTED})
"""Nothing more happens to such a file by itself."""


class InboxFile(models.Model):
    """One file. While it settles it lies under `inbox/`, then under `tmp/inbox/ID/`, then it is its dataset's.

    `filename` is a name to show and to give back, never a path. `options` is what its own settings file asked for.
    `unchanged_since` (Unix seconds): since when it has had `bytes` and `mtime_ns`. `rejected_as`: its name under
    `inbox/rejected/`.
    """

    filename = models.CharField(max_length=255)
    priority = models.SmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    folder = models.CharField(max_length=10, blank=True)
    state = models.CharField(max_length=10, choices=InboxState.choices, default=InboxState.SETTLING)
    reason = models.TextField(blank=True)
    bytes = models.BigIntegerField(default=0)
    mtime_ns = models.BigIntegerField(default=0)
    unchanged_since = models.FloatField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    options = models.JSONField(default=dict, blank=True)
    rejected_as = models.CharField(max_length=255, blank=True)
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="inbox_files")
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="inbox_files")
    seen_at = models.DateTimeField(default=timezone.now)
    taken_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["folder", "filename"], condition=models.Q(state="settling"), name="inbox_file_settles_once"
            )
        ]

    def __str__(self) -> str:
        return self.filename

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in OVER

    @property
    def is_retriable(self) -> bool:
        """Whether it can be tried again."""
        return self.state in (InboxState.REJECTED, InboxState.FAILED)
