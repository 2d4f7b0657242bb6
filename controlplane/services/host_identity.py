"""Which host is which, and which one may work. Runs in the dispatcher's threads.

A host is its home folder's id and its machine's name, whatever its address, its Ray node or its name here. Two that
say the same, or that have the same GPUs, are not both right: neither is believed until somebody has looked.
"""

from datetime import timedelta

from django.utils import timezone

from controlplane.fleet.protocol import HostFacts, HostReading
from controlplane.models import Gpu, Host

OWNED_DAYS = 7
"""For how long a GPU stays a silent host's: after that another one may have it, as a card that was moved."""

_refusals: dict[int, str] = {}
"""Why hosts that answer take no work, by host, as the fleet's watch last found it."""


def known(described: HostFacts) -> Host | None:
    """The row of the host that an agent describes; one from before homes had ids goes by its name."""
    home = described.get("home_id", "")
    rows = Host.objects.filter(home_id=home) if home else Host.objects.none()
    for row in rows:
        if row.facts.get("name") == described["name"]:
            return row
    return Host.objects.filter(home_id="", name=described["name"]).first()


def free_name(described: HostFacts) -> str:
    """What a new host is called: its machine's name, with a piece of its home's id where another has that already."""
    name = described["name"][:180]
    if not Host.objects.filter(name=name).exists():
        return name
    return f"{name}-{described.get('home_id', '')[:6]}"


def refuse(host: Host, why: str) -> None:
    """The host takes no work, for this reason, until it is refused with an empty one."""
    if why:
        _refusals[host.pk] = why
    else:
        _refusals.pop(host.pk, None)


def refusal(host: Host) -> str:
    """Why the host takes no work though it answers, or nothing."""
    return _refusals.get(host.pk, "")


def foreign_gpus(host: Host, reading: HostReading) -> dict[str, str]:
    """The reading's GPUs that another host has, and its name. Who named a card first has it, as long as it does."""
    uuids = [gpu["uuid"] for gpu in reading["gpus"]]
    if not uuids:
        return {}
    since = timezone.now() - timedelta(days=OWNED_DAYS)
    others = Gpu.objects.filter(uuid__in=uuids, seen_at__gte=since).exclude(host=host).select_related("host")
    own = dict(Gpu.objects.filter(uuid__in=uuids, host=host).values_list("uuid", "id"))
    return {gpu.uuid: gpu.host.name for gpu in others if gpu.is_reported and own.get(gpu.uuid, gpu.pk) >= gpu.pk}


def why_two_have_them(foreign: dict[str, str]) -> str:
    """The sentence for GPUs that another host has; nothing where there are none."""
    if not foreign:
        return ""
    uuid, owner = next(iter(foreign.items()))
    return (
        f"It reports {uuid}, which {owner} has: its GPUs are not taken over, and it gets no work. Two agents see one "
        f"machine's GPUs, or a card was moved while {owner} is away; end one of the two."
    )
