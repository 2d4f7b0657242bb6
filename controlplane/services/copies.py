"""What hosts hold of the library: a cache of a limited size for each host. Runs in the web process.

What has not been used for longest goes first, and nothing that a job works with. A host that reads the library itself
has no cache.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Sum
from django.utils import timezone

from controlplane.errors import ConflictError
from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError, Item
from controlplane.fleet.registry import carrier
from controlplane.live.announce import publish
from controlplane.models import Checkpoint, Host, HostCopy, Transfer
from controlplane.models.access import Actor, Role
from controlplane.models.transfers import LIVE, Direction
from controlplane.services import settings
from controlplane.services.access import audit
from controlplane.services.artefacts import home, is_apart
from controlplane.services.at_work import at_work_on

log = logging.getLogger(__name__)
Named = tuple[str, str]


@dataclass(frozen=True)
class Held:
    """A copy, and whether it stays because a job works with it."""

    row: HostCopy
    in_use: bool


def of_host(host: Host) -> list[Held]:
    """What a host holds, the last used first."""
    used = in_use(host)
    return [Held(row, (row.item_kind, row.item_id) in used) for row in HostCopy.objects.filter(host=host)]


def held_bytes(host: Host) -> int:
    """The bytes of all that a host holds."""
    return HostCopy.objects.filter(host=host).aggregate(n=Sum("bytes"))["n"] or 0


def limit_bytes() -> int:
    """How much a host may hold (0: what its disk has room for)."""
    return int(settings.get("files.cache_limit_gib") * (1 << 30))


def in_use(host: Host) -> set[Named]:
    """The items that live jobs of a host work with, and those that haven't come home yet."""
    attempts = at_work_on(host)
    used = {(kind, value) for files in attempts.values_list("files", flat=True) for kind, value in files}
    coming = Transfer.objects.filter(host=host, state__in=LIVE)
    used |= set(coming.values_list("item_kind", "item_id"))
    alone = Checkpoint.objects.filter(coming_from=host, gone_at=None).values_list("run_id", "step")
    return used | {("checkpoint", f"{run}/{step}") for run, step in alone}


def note_use(host: Host, items: Iterable[Item]) -> None:
    """These are used now."""
    for item in items:
        HostCopy.objects.filter(host=host, item_kind=item.kind, item_id=item.id).update(used_at=timezone.now())


def make_room(host: Host, needed_bytes: int, *, beyond_limit: bool = False) -> int:
    """Takes away what was not used for longest until `needed_bytes` more keep within the limit; returns what went.

    `beyond_limit`: the host's disk is full whatever the limit says, so that so much must go in any case.
    Raises HostUnreachableError.
    """
    limit = limit_bytes()
    excess = needed_bytes if beyond_limit else held_bytes(host) + needed_bytes - limit if limit else 0
    used, freed = in_use(host), 0
    for row in HostCopy.objects.filter(host=host).order_by("used_at", "id"):
        if freed >= excess:
            break
        if (row.item_kind, row.item_id) not in used:
            freed += _remove(row)
    return freed


def clear(actor: Actor, host: Host) -> int:
    """Takes away everything that no job works with; returns the bytes. Raises ConflictError where a host has no cache,
    HostUnreachableError."""
    actor.require(Role.ADMIN)
    if not is_apart(host):
        raise ConflictError(f"{host.name} reads the library itself: there are no copies to clear.")
    used = in_use(host)
    freed = sum(_remove(row) for row in HostCopy.objects.filter(host=host) if (row.item_kind, row.item_id) not in used)
    audit(actor, "host.clear_copies", host.name, bytes=freed)
    publish("hosts", "progress", {"host": host.name})
    return freed


def tidy() -> None:
    """Takes copies away whose original has been deleted. A duty."""
    for host in Host.objects.filter(copies__isnull=False).distinct():
        if not host.is_online or not is_apart(host):
            continue
        used = in_use(host)
        for row in HostCopy.objects.filter(host=host):
            gone = not Item(row.item_kind, row.item_id).folder(home()).exists()
            if gone and (row.item_kind, row.item_id) not in used:
                try:
                    _remove(row)
                except HostUnreachableError:
                    break


def _remove(row: HostCopy) -> int:
    """The bytes that this has freed: none where the host's agent knows of a job that works with it."""
    item = Item(row.item_kind, row.item_id)
    try:
        carrier(row.host).files.remove_files(item)
    except AgentRefusedError as error:
        log.info("%s stays on %s: %s", row.title, row.host.name, error.message)
        return 0
    HostCopy.objects.filter(pk=row.pk).delete()
    return row.bytes


def is_coming(host: Host, item: Item) -> bool:
    """Whether an item is on its way home from a host."""
    rows = Transfer.objects.filter(host=host, item_kind=item.kind, item_id=item.id, direction=Direction.HOME)
    return rows.filter(state__in=LIVE).exists()
