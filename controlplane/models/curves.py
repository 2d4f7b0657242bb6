"""The curves of a run: their points in packed chunks, and what is known of each without reading them. Web process."""

from django.db import models

from controlplane.models.runs import Run


class Metric(models.Model):
    """One key of a run: how many points it has, and between what they lie. NaN and the infinities count as `broken`."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    key = models.CharField(max_length=200)
    count = models.PositiveBigIntegerField(default=0)
    broken = models.PositiveBigIntegerField(default=0)
    first_step = models.BigIntegerField()
    last_step = models.BigIntegerField()
    low = models.FloatField(null=True)
    high = models.FloatField(null=True)
    last = models.JSONField(default=None, null=True)

    class Meta:
        ordering = ["run_id", "key"]
        constraints = [models.UniqueConstraint(fields=["run", "key"], name="metric_once")]

    def __str__(self) -> str:
        return f"run {self.run_id} {self.key}: {self.count}"


class Packed(models.Model):
    """Points of one key of a run: packed little-endian arrays (int64 steps, float64 values and times)."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="%(class)ss")
    key = models.CharField(max_length=200)
    index = models.PositiveIntegerField()
    first_step = models.BigIntegerField()
    last_step = models.BigIntegerField()
    count = models.PositiveIntegerField()
    broken = models.PositiveIntegerField(default=0)
    low = models.FloatField(null=True)
    high = models.FloatField(null=True)
    steps = models.BinaryField()
    values = models.BinaryField()
    times = models.BinaryField()

    class Meta:
        abstract = True
        ordering = ["run_id", "key", "index"]

    def __str__(self) -> str:
        return f"run {self.run_id} {self.key} {self.first_step}–{self.last_step}"


class MetricChunk(Packed):
    """Up to 512 points; every chunk of a key but its last is full."""

    class Meta(Packed.Meta):
        constraints = [models.UniqueConstraint(fields=["run", "key", "index"], name="chunk_once")]


class MetricBlock(Packed):
    """What is drawn of 64 full chunks from afar: the extremes among their points. `count` is how many it stands for."""

    class Meta(Packed.Meta):
        constraints = [models.UniqueConstraint(fields=["run", "key", "index"], name="block_once")]


class Resumption(models.Model):
    """Where a run went on from a checkpoint, as its curves show it."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="resumptions")
    step = models.BigIntegerField()
    time = models.FloatField()

    class Meta:
        ordering = ["step", "time"]

    def __str__(self) -> str:
        return f"run {self.run_id} resumed at step {self.step}"
