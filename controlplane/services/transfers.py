"""Transfers: asked for, reported, ended, cancelled. Runs in the web process; `controlplane.carrying` does the work.

A transfer is a row and the blocks that the target holds. Whoever takes it up again goes on behind these.
"""

from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.dispatch import Signal
from django.utils import timezone

from controlplane.errors import ConflictError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Attempt, Host, HostCopy, Transfer
from controlplane.models.access import Actor, Role
from controlplane.models.transfers import LIVE, Direction, TransferState
from controlplane.moments import iso
from controlplane.services import bell
from controlplane.services.access import audit
from controlplane.services.artefacts import Need
from controlplane.services.at_work import at_work_on

came_home = Signal()
"""Sent inside the transaction that makes a transfer into the library done (`transfer`)."""

SHOWN = 50


def _rows() -> "QuerySet[Transfer]":
    return Transfer.objects.select_related("host")


def live() -> "QuerySet[Transfer]":
    """Those that wait or run, the oldest first."""
    return _rows().filter(state__in=LIVE).order_by("id")


def of_host(host: Host, limit: int = SHOWN) -> list[Transfer]:
    """A host's transfers: those that are live first, then the newest."""
    rows = list(_rows().filter(host=host)[:limit])
    return sorted(rows, key=lambda row: not row.is_live)


def get(transfer_id: int) -> Transfer:
    """The transfer. Raises NotFoundError."""
    row = _rows().filter(pk=transfer_id).first()
    if row is None:
        raise NotFoundError(f"There is no transfer {transfer_id}.")
    return row


def latest(host: Host, need: Need, direction: str) -> Transfer | None:
    """The newest transfer of an item to or from a host."""
    rows = _rows().filter(host=host, item_kind=need.item.kind, item_id=need.item.id, direction=direction)
    return rows.order_by("-id").first()


def ask(host: Host, need: Need, direction: str) -> Transfer:
    """The live transfer of an item; made where there is none."""
    wanted = {"host": host, "item_kind": need.item.kind, "item_id": need.item.id, "direction": direction}
    try:
        with transaction.atomic():
            found = _rows().filter(**wanted, state__in=LIVE).first()
            if found is None:
                found = Transfer.objects.create(**wanted, title=need.title[:250])
                announce(found)
    except IntegrityError:  # another thread asked at this moment
        return _rows().get(**wanted, state__in=LIVE)
    return found


def doing(row: Transfer) -> str:
    """What goes on, without figures: "copying tiny to ant", and what it waits for."""
    where = f"to {row.host.name}" if row.direction == Direction.OUT else f"home from {row.host.name}"
    words = f"{'comparing' if row.is_checking else 'copying'} {row.title} {where}"
    return f"{words}: {row.fault}" if row.state == TransferState.WAITING and row.fault else words


def sentence(row: Transfer) -> str:
    """What goes on, in words: "copying tiny to ant: 1.2 of 3.4 GB, 40 s left"."""
    words = doing(row)
    if row.bytes_total and not row.fault:
        words += f": {_size(row.bytes_done, row.bytes_total)}"
    left = row.seconds_left
    return words if left is None or row.state != TransferState.RUNNING else f"{words}, {_duration(left)} left"


def _size(done: int, total: int) -> str:
    unit, factor = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
    return f"{done / factor:.1f} of {total / factor:.1f} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def facts(row: Transfer) -> dict[str, Any]:
    """A transfer as the API and the live topic tell it."""
    return {
        "id": row.pk, "kind": row.item_kind, "item": row.item_id, "title": row.title, "host": row.host.name,
        "direction": row.direction, "state": row.state, "bytes_done": row.bytes_done, "bytes_total": row.bytes_total,
        "bytes_per_second": row.bytes_per_second, "seconds_left": row.seconds_left, "sentence": sentence(row),
        "damaged_blocks": row.damaged_blocks, "fault": row.fault, "fix": row.fix,
        "created_at": iso(row.created_at), "ended_at": iso(row.ended_at),
    }  # fmt: skip


def announce(row: Transfer) -> None:
    """Tells the pages of the fleet. Inside a transaction."""
    publish("hosts", "progress", {"host": row.host.name, "transfer": facts(row)})


# --- What the carrying thread reports ---------------------------------------------------------------------------------


def begin(transfer_id: int) -> bool:
    """Marks it as running. False when it was cancelled meanwhile."""
    now = timezone.now()
    changed = Transfer.objects.filter(pk=transfer_id, state__in=LIVE)
    return bool(changed.update(state=TransferState.RUNNING, started_at=now, fault="", fault_code="", fix=""))


def report(transfer_id: int, **fields: Any) -> bool:
    """Stores how far it is and tells it. False when it was cancelled meanwhile."""
    with transaction.atomic():
        if not Transfer.objects.filter(pk=transfer_id, state=TransferState.RUNNING).update(**fields):
            return False
        announce(get(transfer_id))
    return True


def put_off(transfer_id: int, fault: str, seconds: float) -> None:
    """It waits: whoever it needs doesn't answer, or has no room."""
    with transaction.atomic():
        later = timezone.now() + timedelta(seconds=seconds)
        changed = Transfer.objects.filter(pk=transfer_id, state=TransferState.RUNNING)
        if changed.update(state=TransferState.WAITING, fault=fault, not_before=later, bytes_per_second=None):
            announce(get(transfer_id))


def fail(transfer_id: int, code: str, fault: str, fix: str = "") -> None:
    """It can't be done."""
    _end(transfer_id, TransferState.FAILED, fault=fault, fault_code=code, fix=fix)


def finish(transfer_id: int, total_bytes: int) -> None:
    """Every file has arrived and has its hash. What that means is decided in the same transaction."""
    with transaction.atomic():
        if not _end(transfer_id, TransferState.DONE, bytes_done=total_bytes, bytes_total=total_bytes, fault=""):
            return
        row = get(transfer_id)
        hold(row.host, row.item_kind, row.item_id, row.title, total_bytes)
        if row.direction == Direction.HOME:
            came_home.send(sender=Transfer, transfer=row)


def hold(host: Host, kind: str, item_id: str, title: str, size_bytes: int) -> None:
    """Notes that a host holds an item, and that it is used now."""
    now = timezone.now()
    HostCopy.objects.update_or_create(
        host=host, item_kind=kind, item_id=item_id,
        defaults={"title": title, "bytes": size_bytes, "used_at": now}, create_defaults={
            "title": title, "bytes": size_bytes, "used_at": now, "arrived_at": now,
        },
    )  # fmt: skip


def _end(transfer_id: int, state: str, **fields: Any) -> bool:
    with transaction.atomic():
        rows = Transfer.objects.filter(pk=transfer_id, state__in=LIVE)
        if not rows.update(state=state, ended_at=timezone.now(), is_checking=False, **fields):
            return False
        announce(get(transfer_id))
        transaction.on_commit(bell.wake)
    return True


# --- Cancelling -------------------------------------------------------------------------------------------------------


def cancel(actor: Actor, transfer_id: int) -> Transfer:
    """Ends a transfer; what has come is thrown away. A job that needs it fails and says so.

    For an admin, and for whoever's jobs alone wait for it. Raises ConflictError when it has ended.
    """
    row = get(transfer_id)
    owners = {attempt.job.created_by for attempt in waiting_for(row)}
    if owners == {actor.name}:
        actor.require(Role.USE)
    else:
        actor.require(Role.ADMIN)
    with transaction.atomic():
        if not drop(row, f"{actor.name} has cancelled it"):
            raise ConflictError(f"Transfer {transfer_id} has ended ({get(transfer_id).state}).")
        audit(actor, "transfer.cancel", row.title, transfer=row.pk, host=row.host.name)
    return get(transfer_id)


def drop(row: Transfer, why: str) -> bool:
    """Nobody needs it any more."""
    return _end(row.pk, TransferState.CANCELLED, fault=why, fault_code="transfer_cancelled")


def waiting_for(row: Transfer) -> list[Attempt]:
    """The attempts that can't start, or can't end, before this transfer is done."""
    rows = at_work_on(row.host).select_related("job")
    named = [row.item_kind, row.item_id]
    if row.direction == Direction.OUT:
        return [one for one in rows.filter(launched=False, ended_at=None) if named in one.files]
    return [one for one in rows.exclude(awaits=[]) if row.pk in one.awaits]
