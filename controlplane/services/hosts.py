"""Hosts as their agents report them. Runs in the web process."""

from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from controlplane.errors import NotFoundError
from controlplane.fleet.protocol import GpuReading, HostFacts, HostReading
from controlplane.live.announce import publish
from controlplane.models import Gpu, Host

REMEMBERED_DAYS = 7
"""For how long a host whose driver is silent counts as one with GPUs: cards are taken out, too."""


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


def record(host: Host, reading: HostReading, clock_skew_seconds: float | None = None) -> None:
    """Stores a reading as the present state, and tells the pages. `clock_skew_seconds`: the host's clock minus ours."""
    now = timezone.now()
    with transaction.atomic():
        Host.objects.filter(pk=host.pk).update(
            reading=reading, last_seen_at=now, fault="", clock_skew_seconds=clock_skew_seconds
        )
        for gpu in reading["gpus"]:
            _record_gpu(host, gpu)
        message = {"host": host.name, "reading": reading, "online": True, "clock_skew_seconds": clock_skew_seconds}
        publish("hosts", "telemetry", message)


def _record_gpu(host: Host, gpu: GpuReading) -> None:
    fields = {"index": gpu["index"], "name": gpu["name"], "reading": gpu, "seen_at": timezone.now()}
    if not Gpu.objects.filter(host=host, uuid=gpu["uuid"]).update(**fields):
        Gpu.objects.create(host=host, uuid=gpu["uuid"], **fields)


def unreachable(host: Host, reason: str) -> None:
    """The agent doesn't answer: said once, until it does again."""
    with transaction.atomic():
        if Host.objects.filter(pk=host.pk).exclude(fault=reason).update(fault=reason):
            publish("hosts", "telemetry", {"host": host.name, "reading": None, "online": False, "fault": reason})


def gpus_of(host: Host) -> list[Gpu]:
    """The GPUs that the host's last reading named."""
    return [gpu for gpu in host.gpus.all() if gpu.is_reported]


def missing_gpus(host: Host) -> str | None:
    """Why none of the host's GPUs can be seen though it has some, as a sentence; None where that isn't so.

    A driver that hangs names no card at all; the host isn't one without a GPU for that.
    """
    fault = host.reading.get("gpu_fault")
    if not fault or host.reading.get("gpus"):
        return None
    since = timezone.now() - timedelta(days=REMEMBERED_DAYS)
    return str(fault) if any(gpu.seen_at >= since for gpu in host.gpus.all()) else None
