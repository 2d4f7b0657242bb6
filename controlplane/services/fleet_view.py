"""The fleet as the page Hosts shows it: which hosts, in which groups. Runs in the web process; reads only.

One query string says it all: `q` (part of a name, group or label), `state`, `role`, `label`, `group`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Q

from controlplane.models import Host
from controlplane.models.hosts import HostRole, Upkeep
from controlplane.models.jobs import Kind, Status
from controlplane.services import hosts

STATES = {
    "online": "answers", "offline": "doesn't answer", "fault": "has a fault", "draining": "drains",
    "maintenance": "in maintenance", "idle": "nothing runs", "busy": "something runs",
}  # fmt: skip
NO_GROUP = "no group"


@dataclass(frozen=True)
class FleetHost:
    """One host of the map."""

    host: Host
    running: int
    fault: str

    @property
    def words(self) -> set[str]:
        """Which of STATES it is in."""
        found = {"online" if self.host.is_online else "offline", "busy" if self.running else "idle"}
        return found | ({"fault"} if self.fault else set()) | ({self.host.state} - {Upkeep.OPEN})


@dataclass(frozen=True)
class Group:
    """The hosts that an admin has put together."""

    name: str
    hosts: list[FleetHost]

    @property
    def gpus(self) -> int:
        """How many GPUs they have."""
        return sum(len(row.host.reading.get("gpus") or ()) for row in self.hosts)


@dataclass(frozen=True)
class View:
    """What was asked for, and what there is to ask for."""

    groups: list[Group]
    total: int
    labels: list[str]
    group_names: list[str]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> int:
        """How many hosts are shown."""
        return sum(len(group.hosts) for group in self.groups)


def view(asked: Mapping[str, str]) -> View:
    """The hosts that fit. A word that means nothing leaves out nothing."""
    everybody = _all()
    found = [row for row in everybody if _fits(row, asked)]
    names = sorted({row.host.group for row in found}, key=lambda name: (not name, name.lower()))
    groups = [Group(name or NO_GROUP, [row for row in found if row.host.group == name]) for name in names]
    counts = {word: sum(word in row.words for row in everybody) for word in STATES}
    labels = sorted({label for row in everybody for label in row.host.labels})
    group_names = sorted({row.host.group for row in everybody if row.host.group})
    return View(groups, len(everybody), labels, group_names, counts)


def _all() -> list[FleetHost]:
    running = Count("jobs", filter=Q(jobs__status=Status.RUNNING) & ~Q(jobs__kind=Kind.GENERATE))
    rows = Host.objects.prefetch_related("gpus").annotate(running=running).order_by("name")
    return [FleetHost(row, row.running, _fault(row)) for row in _natural(rows)]


def _natural(rows: Iterable[Any]) -> list[Any]:
    """node-2 stands before node-10."""
    return sorted(rows, key=lambda row: [int(part) if part.isdigit() else part for part in _parts(row.name)])


def _parts(name: str) -> list[str]:
    parts, number = [""], False
    for sign in name.lower():
        if (sign.isascii() and sign.isdigit()) != number:
            number = not number
            parts.append("")
        parts[-1] += sign
    return parts


def _fault(host: Host) -> str:
    """What is wrong with a host, as a sentence, or nothing."""
    if host.fault:
        return host.fault
    broken = next((gpu for gpu in host.reading.get("gpus") or () if gpu.get("fault")), None)
    return str(broken["fault"]) if broken else hosts.missing_gpus(host) or ""


def _fits(row: FleetHost, asked: Mapping[str, str]) -> bool:
    host, word = row.host, asked.get("q", "").strip().lower()
    if word and not any(word in text.lower() for text in (host.name, host.group, *host.labels)):
        return False
    if (state := asked.get("state")) in STATES and state not in row.words:
        return False
    if (role := asked.get("role")) in HostRole.values and host.role != role:
        return False
    if (label := asked.get("label")) and label not in host.labels:
        return False
    return not asked.get("group") or host.group == asked["group"]
