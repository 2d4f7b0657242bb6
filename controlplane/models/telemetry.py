"""What hosts reported over time. Runs in the web process."""

from django.db import models

from controlplane.models.hosts import Host


class TelemetrySample(models.Model):
    """A thinned reading of a host: `values` holds plain figures by name (`cpu_percent`, `gpu.0.power_draw_watts`)."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="samples")
    time = models.DateTimeField()
    resolution_seconds = models.PositiveIntegerField(default=10)
    values = models.JSONField()

    class Meta:
        indexes = [models.Index(fields=["host", "resolution_seconds", "time"])]

    def __str__(self) -> str:
        return f"{self.host_id} at {self.time}"
