"""Hosts as their agents report them. Runs in the web process."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import NotFoundError
from controlplane.fleet.protocol import GpuReading, HostFacts, HostReading
from controlplane.live.announce import publish
from controlplane.models import Gpu, Host, TelemetrySample
from controlplane.services import settings

SAMPLE_SECONDS = 10


def list_hosts() -> list[Host]:
    """Every host with its GPUs."""
    return list(Host.objects.prefetch_related("gpus").order_by("name"))


def get(name: str) -> Host:
    """The host. Raises NotFoundError."""
    host = Host.objects.prefetch_related("gpus").filter(name=name).first()
    if host is None:
        raise NotFoundError(f"There is no host {name!r}.")
    return host


def first() -> Host | None:
    """The host that has been known longest: this machine, where there is one."""
    return Host.objects.prefetch_related("gpus").order_by("id").first()


def register(described: HostFacts, carrier: str = "local") -> Host:
    """Makes or renews a host from what its agent says of itself."""
    with transaction.atomic():
        host, _ = Host.objects.update_or_create(
            name=described["name"],
            defaults={"facts": described, "carrier": carrier, "last_seen_at": timezone.now(), "fault": ""},
        )
    return host


def record(host: Host, reading: HostReading) -> None:
    """Stores a reading as the present state, a sample of it every ten seconds, and tells the pages."""
    now = timezone.now()
    with transaction.atomic():
        Host.objects.filter(pk=host.pk).update(reading=reading, last_seen_at=now, fault="")
        for gpu in reading["gpus"]:
            _record_gpu(host, gpu)
        _sample(host, reading)
        publish("hosts", "telemetry", {"host": host.name, "reading": reading, "online": True})


def _record_gpu(host: Host, gpu: GpuReading) -> None:
    fields = {"index": gpu["index"], "name": gpu["name"], "reading": gpu, "seen_at": timezone.now()}
    if not Gpu.objects.filter(host=host, uuid=gpu["uuid"]).update(**fields):
        Gpu.objects.create(host=host, uuid=gpu["uuid"], **fields)


def unreachable(host: Host, reason: str) -> None:
    """The agent doesn't answer: said once, until it does again."""
    with transaction.atomic():
        if Host.objects.filter(pk=host.pk).exclude(fault=reason).update(fault=reason):
            publish("hosts", "telemetry", {"host": host.name, "reading": None, "online": False, "fault": reason})


def _sample(host: Host, reading: HostReading) -> None:
    time = datetime.fromtimestamp(reading["time"], UTC)
    rows = TelemetrySample.objects.filter(host=host, resolution_seconds=SAMPLE_SECONDS)
    if rows.filter(time__gt=time - timedelta(seconds=SAMPLE_SECONDS)).exists():
        return
    TelemetrySample.objects.create(host=host, time=time, resolution_seconds=SAMPLE_SECONDS, values=figures(reading))
    rows.filter(time__lt=time - timedelta(hours=settings.get("telemetry.keep_hours"))).delete()


def figures(reading: HostReading) -> dict[str, Any]:
    """A reading as plain figures by name; what isn't known is left out."""
    flat: dict[str, Any] = {
        "cpu_percent": reading["cpu_percent"], "load_1m": reading["load_1m"],
        "memory_used_bytes": reading["memory_used_bytes"],
    }  # fmt: skip
    for gpu in reading["gpus"]:
        for name in ("utilization_gpu_percent", "memory_used_bytes", "temperature_celsius", "power_draw_watts",
                     "power_limit_watts", "fan_speed_percent"):  # fmt: skip
            flat[f"gpu.{gpu['index']}.{name}"] = gpu[name]
    return {name: value for name, value in flat.items() if value is not None}


def gpus_of(host: Host) -> list[Gpu]:
    """The GPUs that the host's last reading named."""
    present = {gpu["uuid"] for gpu in host.reading.get("gpus", [])}
    return [gpu for gpu in host.gpus.all() if gpu.uuid in present]
