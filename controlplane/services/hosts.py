"""Hosts as their agents report them. Runs in the web process."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from controlplane.errors import NotFoundError
from controlplane.fleet.protocol import GpuReading, HostFacts, HostReading
from controlplane.live.announce import publish
from controlplane.models import Gpu, Host
from controlplane.models.access import SYSTEM
from controlplane.models.hosts import HostRole, Upkeep
from controlplane.services import host_identity
from controlplane.services.access import audit

REMEMBERED_DAYS = 7
"""For how long a host whose driver is silent counts as one with GPUs: cards are taken out, too."""


def list_hosts() -> list[Host]:
    """Every host with its GPUs."""
    return list(Host.objects.prefetch_related("gpus").order_by("name"))


def count() -> int:
    """How many hosts there are."""
    return Host.objects.count()


def get(name: str) -> Host:
    """The host. Raises NotFoundError."""
    host = Host.objects.prefetch_related("gpus").filter(name=name).first()
    if host is None:
        raise NotFoundError(f"There is no host {name!r}.")
    return host


def that_serve() -> list[Host]:
    """The hosts that answer and take engines."""
    rows = Host.objects.exclude(role=HostRole.TRAIN).filter(state=Upkeep.OPEN).order_by("name")
    return [host for host in rows if host.is_online and not host.fault]


def first() -> Host | None:
    """The host that has been known longest: this machine, where there is one."""
    return Host.objects.prefetch_related("gpus").order_by("id").first()


def register(described: HostFacts, carrier: str = "local", fault: str = "") -> Host:
    """Makes or renews a host from what its agent says of itself. `fault`: why it takes no work though it answers."""
    with transaction.atomic():
        known = host_identity.known(described)
        fields = {
            "facts": described, "carrier": carrier, "home_id": described.get("home_id", ""),
            "last_seen_at": timezone.now(), "fault": fault,
        }  # fmt: skip
        if known is not None:
            Host.objects.filter(pk=known.pk).update(**fields)
            return Host.objects.get(pk=known.pk)
        host = Host.objects.create(name=host_identity.free_name(described), **fields)
        audit(SYSTEM, "host.appear", host.name, carrier=carrier, home=described["home"])
    return host


def record(host: Host, reading: HostReading, clock_skew_seconds: float | None = None) -> None:
    """Stores a reading as the present state, and tells the pages. `clock_skew_seconds`: the host's clock minus ours.

    GPUs that another host has are left out, and the host takes no work until one of the two has lost them.
    """
    now = timezone.now()
    foreign = host_identity.foreign_gpus(host, reading)
    if foreign:
        reading = {**reading, "gpus": [gpu for gpu in reading["gpus"] if gpu["uuid"] not in foreign]}
    fault = host_identity.why_two_have_them(foreign) or host_identity.refusal(host)
    with transaction.atomic():
        Host.objects.filter(pk=host.pk).update(
            reading=reading, last_seen_at=now, fault=fault, clock_skew_seconds=clock_skew_seconds
        )
        _record_gpus(host, reading["gpus"], now)
        message = {"host": host.name, "reading": reading, "online": True, "clock_skew_seconds": clock_skew_seconds}
        publish("hosts", "telemetry", {**message, "fault": fault} if fault else message)


def _record_gpus(host: Host, readings: Sequence[GpuReading], now: datetime) -> None:
    """All cards of a host in one statement: sixty hosts of eight report each second."""
    known = {gpu.uuid: gpu for gpu in Gpu.objects.filter(host=host).only("id", "uuid")} if readings else {}
    for reading in readings:
        fields = {"index": reading["index"], "name": reading["name"], "reading": reading, "seen_at": now}
        if (gpu := known.get(reading["uuid"])) is None:
            Gpu.objects.create(host=host, uuid=reading["uuid"], **fields)
            continue
        for name, value in fields.items():
            setattr(gpu, name, value)
    seen = [known[reading["uuid"]] for reading in readings if reading["uuid"] in known]
    Gpu.objects.bulk_update(seen, ["index", "name", "reading", "seen_at"])


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
