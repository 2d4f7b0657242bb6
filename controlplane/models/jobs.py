"""Jobs and their attempts. Runs in the web process."""

from django.db import models
from django.utils import timezone

from controlplane.models.hosts import Host


class Status(models.TextChoices):
    """What a job is. Changed by `services.jobs.transition` alone."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


LEGAL: dict[str, frozenset[str]] = {
    Status.PENDING: frozenset({Status.RUNNING, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.DONE, Status.FAILED, Status.CANCELLED, Status.PENDING}),
    Status.PAUSED: frozenset({Status.PENDING, Status.CANCELLED}),
    Status.FAILED: frozenset({Status.PENDING}),
    Status.CANCELLED: frozenset({Status.PENDING}),
    Status.DONE: frozenset(),
}
STUCK = "stuck"
"""Code of the error of an attempt that was killed because it reported nothing any more."""

ENDED = frozenset({Status.DONE, Status.FAILED, Status.CANCELLED})


class Desired(models.TextChoices):
    """What its owner wants of it."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"
    CANCEL = "cancel"


class Priority(models.IntegerChoices):
    """Order in the queue: higher first, then position, then age."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class Kind(models.TextChoices):
    """The kinds of contracts.md; each is one class under `controlplane.kinds`."""

    TRAIN = "train"
    VALIDATE = "validate"
    FETCH = "fetch"
    SERVE = "serve"
    EVAL = "eval"
    DATA_GEN = "data_gen"
    GENERATE = "generate"
    EXTERNAL = "external"
    IMPORT = "import"
    BACKUP = "backup"
    CLEAN = "clean"


class Job(models.Model):
    """Something heavy that is to be done. `config` is what its kind builds the spec from.

    `host` is where it runs or ran last; `is_pinned`: its owner named that host, and it runs nowhere else.
    """

    kind = models.CharField(max_length=10, choices=Kind.choices)
    title = models.CharField(max_length=250, blank=True)
    priority = models.SmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    position = models.FloatField(default=0)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    desired = models.CharField(max_length=8, choices=Desired.choices, default=Desired.RUN)
    phase = models.CharField(max_length=16, blank=True)
    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    is_pinned = models.BooleanField(default=False)
    gpus = models.JSONField(default=list, blank=True)
    config = models.JSONField(default=dict)
    progress = models.JSONField(null=True, blank=True)
    result = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    waiting_reason = models.CharField(max_length=250, blank=True)
    attempt_count = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    max_failures = models.PositiveIntegerField(default=3)
    not_before = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["status", "-priority", "position", "id"]),
            models.Index(fields=["kind", "status"]),
            models.Index(fields=["ended_at", "id"]),
            models.Index(fields=["created_by", "id"]),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}: {self.title}"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen unless somebody retries it."""
        return self.status in ENDED


class Attempt(models.Model):
    """One process that was started for a job. `offset` is how far its events are stored; `gpus` are NVML UUIDs.

    `placed_because`: why it went to its host. `meeting`: the address and port at which the processes of a run on
    several hosts meet (its other hosts are `models.members`). `files`: the [kind, id] of what it reads on a host
    that is apart from the library. `awaits`: the transfers that bring home what it has made; before that its job isn't
    done.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="attempts")
    gpus = models.JSONField(default=list)
    offset = models.BigIntegerField(default=0)
    last_seq = models.BigIntegerField(default=0)
    launched = models.BooleanField(default=False)
    wish_sent = models.CharField(max_length=8, blank=True)
    placed_because = models.CharField(max_length=250, blank=True)
    meeting = models.CharField(max_length=250, blank=True)
    files = models.JSONField(default=list, blank=True)
    awaits = models.JSONField(default=list, blank=True)
    result = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    exit = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="attempt_number_once")]

    def __str__(self) -> str:
        return f"job {self.job_id} attempt {self.number}"
