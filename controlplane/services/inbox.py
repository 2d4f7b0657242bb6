"""The inbox: files put into a folder become datasets, and those that pass start runs. A duty of the web process.

A file is a row (`InboxFile`) from the moment it is seen. Each step is written down before it is done and can be done
again: a kill at any point neither loses a file nor takes one twice.
"""

import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, PilothouseError
from controlplane.live.announce import publish
from controlplane.models import Dataset, InboxFile
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import DatasetStatus, Level
from controlplane.models.inbox import OVER, InboxState
from controlplane.models.jobs import ENDED, Priority, Status
from controlplane.services import datasets, inbox_files, jobs, settings
from controlplane.services.access import audit
from controlplane.services.inbox_files import DATA, OPTIONS, Found
from controlplane.services.inbox_options import InboxOptions, parse, start_run
from controlplane.services.inbox_watch import InboxWatch
from monitoring.files import sha256_of

log = logging.getLogger(__name__)
INBOX = Actor(name="inbox", role=Role.USE)
"""Who does what a file in the inbox asks for: whoever can put files there is trusted as far as the role use."""

SAME_BYTES = "Its bytes are the dataset"
"""How the reason of a file begins that came before."""

KEPT = 500
"""How many files that are done are remembered."""

_watch = InboxWatch()
_looked_at: dict[str, float] = {}
"""When (monotonic) the inbox was last looked through."""


# --- The duty ---------------------------------------------------------------------------------------------------------


def work() -> None:
    """One round: what is new, what is whole, what has moved on. Called every second; at rest it asks two questions."""
    values = settings.effective()
    under_way = list(InboxFile.objects.exclude(state__in=OVER).order_by("id"))
    for row in under_way:  # first: what a kill left half-moved lies in the inbox yet
        if row.state == InboxState.TAKING:
            _attempt(row)
    if values["inbox.enabled"]:
        settling = any(row.state == InboxState.SETTLING for row in under_way)
        _look(settling, values["inbox.rescan_seconds"])
    else:
        _watch.stop()
    for row in under_way:
        if row.state in STEPS and row.state != InboxState.TAKING:
            _attempt(row)


def _look(settling: bool, rescan_seconds: float) -> None:
    """Looks through the inbox where something may have come, or was there before."""
    inbox_files.make_folders()
    if "inbox" not in _looked_at:  # this process has just started
        clear_leftovers()
    _watch.watch(inbox_files.root())
    changed, renamed = _watch.news()
    due = time.monotonic() - _looked_at.get("inbox", float("-inf")) >= rescan_seconds
    if changed or due or settling:
        _looked_at["inbox"] = time.monotonic()
        scan(renamed)


def _attempt(row: InboxFile) -> None:
    try:
        STEPS[row.state](row)
    except Exception as error:  # one file's trouble is not the others': it is tried again in the next round
        log.exception("the inbox's file %s makes trouble", row)
        _update(row, reason=f"It is tried again: {type(error).__name__}: {error}")


# --- Seen, and whole --------------------------------------------------------------------------------------------------


def scan(renamed: Collection[Path] = ()) -> None:
    """Looks through the inbox: notes what is new, takes what is whole, forgets what was removed."""
    there = set()
    for found in inbox_files.find():
        row = _noted(found)
        there.add(row.pk)
        if found.fault:
            _refuse(row, found)
        elif _is_whole(row, found, found.path in renamed):
            _claim(row, found)
    gone = InboxFile.objects.filter(state=InboxState.SETTLING).exclude(pk__in=there)
    if gone.exists():
        with transaction.atomic():
            gone.delete()
            publish("inbox", "status", {})


def _noted(found: Found) -> InboxFile:
    """The row of a file that lies in the inbox, with what it is like now."""
    name = inbox_files.shown_name(found.name)
    row = InboxFile.objects.filter(folder=found.folder, filename=name, state=InboxState.SETTLING).first()
    facts = {"bytes": found.bytes, "mtime_ns": found.mtime_ns, "unchanged_since": time.time()}
    if row is None:
        with transaction.atomic():
            row = InboxFile.objects.create(
                folder=found.folder, filename=name, priority=inbox_files.FOLDERS[found.folder], **facts
            )
            _announce(row)
    elif (row.bytes, row.mtime_ns) != (found.bytes, found.mtime_ns):
        _update(row, **facts)
    return row


def _is_whole(row: InboxFile, found: Found, renamed: bool) -> bool:
    """Whether nobody writes to it: it was renamed into its place, or hasn't changed for `inbox.settle_seconds`."""
    written_to = inbox_files.is_written_to(found.path)
    if written_to:
        _update(row, reason="A program has it open for writing.")
        return False
    settle = settings.get("inbox.settle_seconds")
    if (renamed and written_to is False) or time.time() - row.unchanged_since >= settle:
        return True
    # Written to last before it was first seen: it was moved here, or copied with its times, which come last.
    return written_to is False and row.unchanged_since - found.mtime_ns / 1e9 >= settle


def _refuse(row: InboxFile, found: Found) -> None:
    """What is no file at all goes aside as it is."""
    row.rejected_as = inbox_files.free_name(found.name)
    inbox_files.put_aside(found.path, inbox_files.options_path(found), row.rejected_as, found.fault)
    _update(row, state=InboxState.REJECTED, reason=found.fault, ended_at=timezone.now(), rejected_as=row.rejected_as)


def _claim(row: InboxFile, found: Found) -> None:
    """From here on the file is ours: written down first, then moved. What stands in its way is told, and it waits."""
    with transaction.atomic():
        claimed = InboxFile.objects.filter(pk=row.pk, state=InboxState.SETTLING)
        if not claimed.update(state=InboxState.TAKING, reason="", taken_at=timezone.now()):
            return
        audit(INBOX, "inbox.take", row.filename, bytes=row.bytes, folder=row.folder or "inbox")
        row.refresh_from_db()
        _announce(row)
    _attempt(row)


# --- Taken ------------------------------------------------------------------------------------------------------------


def _take(row: InboxFile) -> None:
    """Moves the file in, hashes it and makes it a dataset. Every part of it may be done again."""
    held = inbox_files.held_folder(row.pk)
    try:
        inbox_files.take(Found(row.folder, row.filename, row.bytes, row.mtime_ns), row.pk)
    except FileNotFoundError:
        inbox_files.release(row.pk)
        _update(row, state=InboxState.REJECTED, reason="It was removed before it could be taken.",
                ended_at=timezone.now())  # fmt: skip
        return
    except PermissionError as error:
        _update(row, reason=f"It can't be moved: {error.strerror}. Let Pilothouse's user write to the inbox.")
        return
    if inbox_files.is_written_to(held / DATA):
        _update(row, reason="A program still has it open for writing.")
        return
    try:
        dataset, said = _adopted(row, held)
    except (InvalidInputError, ConflictError) as error:
        _reject(row, error.message)
        return
    except PermissionError as error:
        _reject(row, f"It can't be read: {error.strerror}. Let Pilothouse's user read it (chmod).")
        return
    _update(row, dataset=dataset, state=InboxState.VALIDATING, reason=said)


def _adopted(row: InboxFile, held: Path) -> tuple[Dataset, str]:
    """The dataset with the file's bytes, and a sentence where there was one already. Raises what refuses the file."""
    filename = datasets.check_filename(row.filename)
    size = (held / DATA).stat().st_size
    if not size:
        raise InvalidInputError(f"{filename} is empty. Give a file with one JSON object a line.")
    if size > (limit := settings.get("uploads.max_bytes")):
        raise InvalidInputError(f"{filename} has {size} bytes; {limit} are taken (the setting uploads.max_bytes).")
    options = parse(inbox_files.read_options(held / OPTIONS))
    row.options = options.said
    sha256 = sha256_of(held / DATA)
    _update(row, options=row.options, sha256=sha256, bytes=size)
    dataset, created = datasets.adopt(
        INBOX, held / DATA, sha256=sha256, filename=filename, name=options.dataset_name(filename),
        eval_fraction=options.eval_fraction(), level=Level.QUICK, lineage=options.lineage.check(),
    )  # fmt: skip
    # A kill may have come right behind the adoption: then it is this file's own dataset that is found here.
    own = created or (row.taken_at is not None and dataset.created_at >= row.taken_at)
    words = [] if own else [f"{SAME_BYTES} {dataset} already."]
    if options.left_out:
        words.append(f"Of its settings these have no place: {'; '.join(options.left_out)}")
    return dataset, " ".join(words)


def _watch_validation(row: InboxFile) -> None:
    """Starts the run when the dataset is ready."""
    dataset = row.dataset
    if dataset is None:
        _reject(row, "Its dataset was deleted.")
    elif dataset.status == DatasetStatus.REJECTED:
        _reject(row, dataset.reason or f"The dataset {dataset} was rejected; its report says why.")
    elif dataset.status == DatasetStatus.READY:
        _begin(row, dataset)


def _begin(row: InboxFile, dataset: Dataset) -> None:
    """Run and row change together, so that a kill can't make two runs of a file."""
    options = InboxOptions.of(row.options)
    if not row.options and _has_run_already(row, dataset):
        _done(row, f"{row.reason} A run was started for it before, so none is started again.".strip())
        return
    try:
        with transaction.atomic():
            run = start_run(INBOX, dataset, options, Priority(row.priority).name.lower())
            if run is not None:
                row.run = run
                row.state = InboxState.QUEUED
                row.save(update_fields=["run", "state"])
                _announce(row)
    except PilothouseError as error:
        _reject(row, f"{dataset} is ready, but its run can't be started: {error.message}")
        return
    if run is None:
        _done(row, f"{row.reason} No template is set (the setting inbox.template), so no run was started.".strip())
    else:
        _release(row)


def _has_run_already(row: InboxFile, dataset: Dataset) -> bool:
    others = InboxFile.objects.filter(dataset=dataset, run__isnull=False)
    return row.reason.startswith(SAME_BYTES) and others.exclude(pk=row.pk).exists()


def _watch_run(row: InboxFile) -> None:
    """Follows the run."""
    run = row.run
    if run is None:
        _done(row, "Its run was deleted.")
    elif run.job.status == Status.DONE:
        _done(row, row.reason)
    elif run.job.status in ENDED:
        error = (run.job.error or {}).get("message") or "it did not say why."
        reason = f"Run {run} was cancelled." if run.job.status == Status.CANCELLED else f"Run {run} has failed: {error}"
        _update(row, state=InboxState.FAILED, reason=reason, ended_at=timezone.now())
    else:
        state = InboxState.QUEUED if run.job.status == Status.PENDING else InboxState.RUNNING
        if row.state != state:
            _update(row, state=state)


STEPS: dict[str, Callable[[InboxFile], None]] = {
    InboxState.TAKING: _take, InboxState.VALIDATING: _watch_validation, InboxState.QUEUED: _watch_run,
    InboxState.RUNNING: _watch_run,
}  # fmt: skip


# --- Endings ----------------------------------------------------------------------------------------------------------


def _done(row: InboxFile, reason: str) -> None:
    _update(row, state=InboxState.DONE, reason=reason, ended_at=timezone.now())
    _release(row)
    _prune()


def _release(row: InboxFile) -> None:
    """The file's bytes are its dataset's: what was held of it, or put aside before it was tried again, can go."""
    inbox_files.release(row.pk)
    if row.rejected_as:
        inbox_files.forget_rejected(row.rejected_as)
        _update(row, rejected_as="")


def _reject(row: InboxFile, reason: str) -> None:
    """Puts the file aside and says why; the name there is written down first, so that a kill leaves nothing behind."""
    if not row.rejected_as:
        _update(row, rejected_as=inbox_files.free_name(row.filename))
    held = inbox_files.held_folder(row.pk)
    inbox_files.put_aside(held / DATA, held / OPTIONS, row.rejected_as, reason)
    with transaction.atomic():
        _update(row, state=InboxState.REJECTED, reason=reason, ended_at=timezone.now())
        audit(INBOX, "inbox.reject", row.filename, reason=reason)
    inbox_files.release(row.pk)


def clear_leftovers() -> None:
    """What a kill left under `tmp/inbox/`: files that are over need nothing, one without a row is put aside."""
    rows = InboxFile.objects.in_bulk(inbox_files.held_rows())
    for row_id in inbox_files.held_rows():
        row = rows.get(row_id)
        held = inbox_files.held_folder(row_id)
        if row is None and (held / DATA).exists():
            name = inbox_files.free_name(f"file-{row_id}")
            inbox_files.put_aside(held / DATA, held / OPTIONS, name, "Nothing is known of where it came from.")
        if row is None or (row.state not in (InboxState.TAKING, InboxState.VALIDATING)):
            inbox_files.release(row_id)


def _prune() -> None:
    done = InboxFile.objects.filter(state=InboxState.DONE).order_by("-id")
    oldest = done.values_list("pk", flat=True)[KEPT : KEPT + 1].first()
    if oldest is not None:
        InboxFile.objects.filter(state=InboxState.DONE, pk__lte=oldest).delete()


# --- Looking and acting -----------------------------------------------------------------------------------------------


def list_files(limit: int = 200) -> list[InboxFile]:
    """The files, those that are not over first, then the newest."""
    rows = InboxFile.objects.select_related("dataset", "run", "run__job")
    waiting = list(rows.exclude(state__in=OVER).order_by("id"))
    return [*waiting, *rows.filter(state__in=OVER).order_by("-id")[:limit]]


def facts(row: InboxFile) -> dict[str, Any]:
    """A file as the API and the live topic tell it."""
    return {
        "id": row.pk, "filename": row.filename, "priority": Priority(row.priority).name.lower(), "state": row.state,
        "reason": row.reason, "bytes": row.bytes, "sha256": row.sha256 or None, "dataset_id": row.dataset_id,
        "run_id": row.run_id, "rejected_as": row.rejected_as or None, "seen_at": row.seen_at.isoformat(),
        "taken_at": _iso(row.taken_at), "ended_at": _iso(row.ended_at),
    }  # fmt: skip


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


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
    if row.state not in (InboxState.REJECTED, InboxState.FAILED):
        raise ConflictError(f"{row} is {row.state}: only a file that was rejected or has failed can be tried again.")
    if row.state == InboxState.FAILED:
        return _retry_run(actor, row)
    if row.dataset is None:
        return _retry_taking(actor, row)
    with transaction.atomic():
        if row.dataset.status == DatasetStatus.REJECTED:
            datasets.validate(INBOX, row.dataset, Level.STANDARD)
        audit(actor, "inbox.retry", row.filename)
        _update(row, state=InboxState.VALIDATING, reason="", ended_at=None)
    return row


def _retry_run(actor: Actor, row: InboxFile) -> InboxFile:
    if row.run is None:
        raise ConflictError(f"The run of {row} was deleted. Start another one from its dataset.")
    with transaction.atomic():
        jobs.retry(INBOX, row.run.job_id)
        audit(actor, "inbox.retry", row.filename, run=row.run_id)
        _update(row, state=InboxState.QUEUED, reason="", ended_at=None)
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


def _update(row: InboxFile, **fields: Any) -> None:
    """Changes the row, and tells of it where anything is new."""
    if all(getattr(row, name) == value for name, value in fields.items()):
        return
    for name, value in fields.items():
        setattr(row, name, value)
    with transaction.atomic():
        row.save(update_fields=list(fields))
        _announce(row)


def _announce(row: InboxFile) -> None:
    publish("inbox", "status", facts(row))
