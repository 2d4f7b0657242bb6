"""The files of the inbox: what stands of each, and trying one again or taking it off the list. Runs in the web process.

What becomes of them by itself is the duty's (`inbox_work`).
"""

from pathlib import Path
from typing import Any

from django.db import transaction

from controlplane.errors import ConflictError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import InboxFile
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import DatasetStatus, Level
from controlplane.models.inbox import InboxState
from controlplane.models.jobs import Priority
from controlplane.moments import iso
from controlplane.services import dataset_checks, inbox_files, jobs, settings
from controlplane.services.access import audit

INBOX = Actor(name="inbox", role=Role.USE)
"""Who does what a file in the inbox asks for: whoever can put files there is trusted as far as the role use."""


def facts(row: InboxFile) -> dict[str, Any]:
    """A file as the API and the live topic tell it."""
    return {
        "id": row.pk, "filename": row.filename, "priority": Priority(row.priority).name.lower(), "state": row.state,
        "reason": row.reason, "bytes": row.bytes, "sha256": row.sha256 or None, "dataset_id": row.dataset_id,
        "run_id": row.run_id, "rejected_as": row.rejected_as or None, "seen_at": row.seen_at.isoformat(),
        "taken_at": iso(row.taken_at), "ended_at": iso(row.ended_at),
    }  # fmt: skip


def overview() -> dict[str, Any]:
    """Whether files are taken, from where, and what is started from them."""
    return {
        "enabled": settings.get("inbox.enabled"), "folder": str(inbox_files.root()),
        "template": settings.get("inbox.template") or None,
    }  # fmt: skip


def get(file_id: int) -> InboxFile:
    """The file. Raises NotFoundError."""
    row = InboxFile.objects.select_related("dataset", "run", "run__job").filter(pk=file_id).first()
    if row is None:
        raise NotFoundError(f"The inbox knows no file {file_id}. GET /api/inbox lists them.")
    return row


def retry(actor: Actor, file_id: int) -> InboxFile:
    """Tries a rejected or failed file again, from where it got stuck: the taking, the checks, or the run.

    Raises ConflictError for one that isn't over, has nothing to be tried again, or whose place is taken.
    """
    actor.require(Role.USE)
    row = get(file_id)
    if not row.is_retriable:
        raise ConflictError(f"{row} is {row.state}: only a file that was rejected or has failed can be tried again.")
    if row.state == InboxState.FAILED:
        return _retry_run(actor, row)
    if row.dataset is None:
        return _retry_taking(actor, row)
    with transaction.atomic():
        if row.dataset.status == DatasetStatus.REJECTED:
            dataset_checks.validate(INBOX, row.dataset, Level.STANDARD)
        audit(actor, "inbox.retry", row.filename)
        update(row, state=InboxState.VALIDATING, reason="", ended_at=None)
    return row


def _retry_run(actor: Actor, row: InboxFile) -> InboxFile:
    if row.run is None:
        raise ConflictError(f"The run of {row} was deleted. Start another one from its dataset.")
    with transaction.atomic():
        jobs.retry(INBOX, row.run.job_id)
        audit(actor, "inbox.retry", row.filename, run=row.run_id)
        update(row, state=InboxState.QUEUED, reason="", ended_at=None)
    return row


def _retry_taking(actor: Actor, row: InboxFile) -> InboxFile:
    """Puts the file back into the inbox, as if it came anew."""
    if row.rejected_as == "" or Path(row.filename).name != row.filename:
        raise ConflictError(f"{row} is not there any more. Put it into the inbox again.")
    try:
        if not inbox_files.put_back(row.rejected_as, row.folder, row.filename):
            raise ConflictError(f"{row} is no longer under inbox/rejected. Put it into the inbox again.")
    except FileExistsError:
        raise ConflictError(f"Another {row} lies in the inbox. Wait until it is taken, or rename it.") from None
    with transaction.atomic():
        audit(actor, "inbox.retry", row.filename)
        InboxFile.objects.filter(pk=row.pk).delete()
        publish("inbox", "status", {})
    return row


def dismiss(actor: Actor, file_id: int) -> None:
    """Takes a file that is over off the list; one that was rejected stays under `inbox/rejected/`."""
    actor.require(Role.USE)
    row = get(file_id)
    if not row.is_over:
        fix = "Take it out of the inbox instead." if row.state == InboxState.SETTLING else "Cancel its job first."
        raise ConflictError(f"{row} is {row.state}. {fix}")
    with transaction.atomic():
        audit(actor, "inbox.dismiss", row.filename, state=row.state, reason=row.reason)
        InboxFile.objects.filter(pk=row.pk).delete()
        publish("inbox", "status", {})


def update(row: InboxFile, **fields: Any) -> None:
    """Changes the row, and tells of it where anything is new."""
    if all(getattr(row, name) == value for name, value in fields.items()):
        return
    for name, value in fields.items():
        setattr(row, name, value)
    with transaction.atomic():
        row.save(update_fields=list(fields))
        announce(row)


def announce(row: InboxFile) -> None:
    """Tells open pages what has become of a file (inside the transaction of the change)."""
    publish("inbox", "status", facts(row))
