"""Hosts and their GPUs. Runs in the web process."""

from django.db import models
from django.utils import timezone

OFFLINE_AFTER_SECONDS = 15


class Upkeep(models.TextChoices):
    """Whether a host, or one of its GPUs, takes work. Changed by `services.upkeep` alone."""

    OPEN = "open"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


class HostRole(models.TextChoices):
    """What a host is for: training runs, engines, or both. Light jobs go anywhere."""

    BOTH = "both"
    TRAIN = "train"
    SERVE = "serve"


class OnLoss(models.TextChoices):
    """What becomes of the jobs of a host that is lost. "" is the setting `fleet.on_host_loss`."""

    DEFAULT = ""
    WAIT = "wait"
    RESUME = "resume"


class Host(models.Model):
    """A machine with an agent. `reading` is the last `HostReading`, `facts` the last `HostFacts`.

    `clock_skew_seconds`: how far its clock runs ahead of the web process's. `samples_until`: the time (Unix seconds) of
    its last stored sample. `upkeep_note`: who changed the state, when and why, and what that paused ({"by", "since",
    "reason", "paused_jobs": [job ids]}), so that it can be undone. `address`: where other hosts reach it, if not under
    its name. `home_id` (its home folder's) and the machine's name in `facts` say which host it is, whatever its name
    here. `lost_at`: since when it counts as lost, after the grace time. `shared_files`: {"here", "there"}, the
    path under which the control plane and the host see one file system, where they share one.
    """

    name = models.CharField(max_length=200, unique=True)
    carrier = models.CharField(max_length=8, default="local")
    facts = models.JSONField(default=dict)
    reading = models.JSONField(default=dict)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    fault = models.TextField(blank=True)
    clock_skew_seconds = models.FloatField(null=True, blank=True)
    samples_until = models.FloatField(null=True, blank=True)
    role = models.CharField(max_length=8, choices=HostRole.choices, default=HostRole.BOTH)
    labels = models.JSONField(default=list, blank=True)
    group = models.CharField(max_length=80, blank=True)
    address = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=12, choices=Upkeep.choices, default=Upkeep.OPEN)
    upkeep_note = models.JSONField(null=True, blank=True)
    home_id = models.CharField(max_length=32, blank=True, db_index=True)
    on_loss = models.CharField(max_length=8, choices=OnLoss.choices, default=OnLoss.DEFAULT, blank=True)
    lost_at = models.DateTimeField(null=True, blank=True)
    shared_files = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.name

    @property
    def is_online(self) -> bool:
        """Whether its agent has answered lately."""
        if self.last_seen_at is None:
            return False
        return (timezone.now() - self.last_seen_at).total_seconds() < OFFLINE_AFTER_SECONDS


class Gpu(models.Model):
    """One GPU of a host, known by its NVML UUID. `reading` is the last `GpuReading`.

    `power_profile` is what somebody or a schedule wished for last; `power_answer` what became of it, with "accepted_at"
    (when the card last took what it was asked for) and "restore_told" (`power.restore_at_stop` as its agent knows it).
    `power_drift` is what was found in force instead, by another's doing: {"found_watts", "wanted_watts", "since",
    "set_again"}.
    `heat_level`: 0 cool, 1 power is stepped down, 2 new jobs wait, 3 running jobs are paused (`services.thermal`);
    `heat` is what the thermal guard has done and must undo: {"watts": the limit it set, "before_watts",
    "intended_watts": the one it is about to set, "stepped_at", "tries", "reason", "paused_jobs": [job ids]}.
    `state` and `upkeep_note` are as a host's.
    """

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="gpus")
    uuid = models.CharField(max_length=80)
    index = models.PositiveIntegerField()
    name = models.CharField(max_length=200)
    reading = models.JSONField(default=dict)
    seen_at = models.DateTimeField(default=timezone.now)
    power_profile = models.CharField(max_length=20, blank=True)
    power_answer = models.JSONField(null=True, blank=True)
    power_set_at = models.DateTimeField(null=True, blank=True)
    power_drift = models.JSONField(null=True, blank=True)
    persistence_wanted = models.BooleanField(null=True, blank=True)
    persistence_answer = models.JSONField(null=True, blank=True)
    heat_level = models.PositiveSmallIntegerField(default=0)
    heat_since = models.DateTimeField(null=True, blank=True)
    heat = models.JSONField(null=True, blank=True)
    state = models.CharField(max_length=12, choices=Upkeep.choices, default=Upkeep.OPEN)
    upkeep_note = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ["host_id", "index"]
        constraints = [models.UniqueConstraint(fields=["host", "uuid"], name="gpu_once_a_host")]

    def __str__(self) -> str:
        return f"{self.name} on {self.host_id}"

    @property
    def is_reported(self) -> bool:
        """Whether its host's last reading names it; a card that was taken out keeps its row."""
        return any(seen["uuid"] == self.uuid for seen in self.host.reading.get("gpus") or ())
