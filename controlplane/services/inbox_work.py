"""The inbox: files put into a folder become datasets, and those that pass start runs. A duty of the web process.

A file is a row (`InboxFile`) from the moment it is seen. Each step is written down before it is done and can be done
again: a kill at any point neither loses a file nor takes one twice.
"""

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, InvalidInputError, PilothouseError
from controlplane.live.announce import publish
from controlplane.models import Dataset, InboxFile
from controlplane.models.datasets import DatasetStatus, Level
from controlplane.models.inbox import OVER, InboxState
from controlplane.models.jobs import ENDED, Priority, Status
from controlplane.services import dataset_intake, inbox, inbox_files, settings
from controlplane.services.access import audit
from controlplane.services.inbox_files import DATA, OPTIONS, Found
from controlplane.services.inbox_options import InboxOptions, parse, start_run
from controlplane.services.inbox_watch import InboxWatch
from monitoring.files import sha256_of

log = logging.getLogger(__name__)

KEPT = 500
"""How many files that are done are remembered."""

_watch = InboxWatch()
_looked_at: dict[str, float] = {}
"""When (monotonic) the inbox was last looked through."""


# --- The duty ---------------------------------------------------------------------------------------------------------


def work() -> None:
    """One round: what is new, what is whole, what has moved on. Called every second; at rest it asks two questions."""
    values = settings.effective()
    under_way = list(InboxFile.objects.exclude(state__in=OVER).select_related("dataset", "run__job").order_by("id"))
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
        inbox.update(row, reason=f"It is tried again: {type(error).__name__}: {error}")


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
            inbox.announce(row)
    elif (row.bytes, row.mtime_ns) != (found.bytes, found.mtime_ns):
        inbox.update(row, **facts)
    return row


def _is_whole(row: InboxFile, found: Found, renamed: bool) -> bool:
    """Whether nobody writes to it: it was renamed into its place, or hasn't changed for `inbox.settle_seconds`."""
    written_to = inbox_files.is_written_to(found.path)
    if written_to:
        inbox.update(row, reason="A program has it open for writing.")
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
    inbox.update(
        row, state=InboxState.REJECTED, reason=found.fault, ended_at=timezone.now(), rejected_as=row.rejected_as
    )


def _claim(row: InboxFile, found: Found) -> None:
    """From here on the file is ours: written down first, then moved. What stands in its way is told, and it waits."""
    with transaction.atomic():
        claimed = InboxFile.objects.filter(pk=row.pk, state=InboxState.SETTLING)
        if not claimed.update(state=InboxState.TAKING, reason="", taken_at=timezone.now()):
            return
        audit(inbox.INBOX, "inbox.take", row.filename, bytes=row.bytes, folder=row.folder or "inbox")
        row.refresh_from_db()
        inbox.announce(row)
    _attempt(row)


# --- Taken ------------------------------------------------------------------------------------------------------------


def _take(row: InboxFile) -> None:
    """Moves the file in, hashes it and makes it a dataset. Every part of it may be done again."""
    held = inbox_files.held_folder(row.pk)
    try:
        inbox_files.take(Found(row.folder, row.filename, row.bytes, row.mtime_ns), row.pk)
    except FileNotFoundError:
        inbox_files.release(row.pk)
        inbox.update(row, state=InboxState.REJECTED, reason="It was removed before it could be taken.",
                ended_at=timezone.now())  # fmt: skip
        return
    except PermissionError as error:
        inbox.update(row, reason=f"It can't be moved: {error.strerror}. Let Pilothouse's user write to the inbox.")
        return
    if not inbox_files.is_plain_file(held / DATA):  # put in its place after it was looked at
        _reject(row, "It is a link or a device, not a file. Put the file itself there.")
        return
    if inbox_files.is_written_to(held / DATA):
        inbox.update(row, reason="A program still has it open for writing.")
        return
    try:
        dataset, said = _adopted(row, held)
    except (InvalidInputError, ConflictError) as error:
        _reject(row, error.message)
        return
    except PermissionError as error:
        _reject(row, f"It can't be read: {error.strerror}. Let Pilothouse's user read it (chmod).")
        return
    inbox.update(row, dataset=dataset, state=InboxState.VALIDATING, reason=said)


def _adopted(row: InboxFile, held: Path) -> tuple[Dataset, str]:
    """The dataset with the file's bytes, and a sentence where there was one already. Raises what refuses the file."""
    filename = dataset_intake.check_filename(row.filename)
    size = (held / DATA).stat().st_size
    if not size:
        raise InvalidInputError(f"{filename} is empty. Give a file with one JSON object a line.")
    if size > (limit := settings.get("uploads.max_bytes")):
        raise InvalidInputError(f"{filename} has {size} bytes; {limit} are taken (the setting uploads.max_bytes).")
    options = parse(inbox_files.read_options(held / OPTIONS))
    row.options = options.said
    sha256 = sha256_of(held / DATA)
    inbox.update(row, options=row.options, sha256=sha256, bytes=size)
    dataset, created = dataset_intake.adopt(
        inbox.INBOX, held / DATA, sha256=sha256, filename=filename, name=options.dataset_name(filename),
        eval_fraction=options.eval_fraction(), level=Level.QUICK, lineage=options.lineage.check(),
    )  # fmt: skip
    # A kill may have come right behind the adoption: then it is this file's own dataset that is found here.
    own = created or _is_own(row, dataset)
    words = [] if own else [f"Its bytes are the dataset {dataset} already."]
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
            run = start_run(inbox.INBOX, dataset, options, Priority(row.priority).name.lower())
            if run is not None:
                row.run = run
                row.state = InboxState.QUEUED
                row.save(update_fields=["run", "state"])
                inbox.announce(row)
    except PilothouseError as error:
        _reject(row, f"{dataset} is ready, but its run can't be started: {error.message}")
        return
    if run is None:
        _done(row, f"{row.reason} No template is set (the setting inbox.template), so no run was started.".strip())
    else:
        _release(row)


def _has_run_already(row: InboxFile, dataset: Dataset) -> bool:
    others = InboxFile.objects.filter(dataset=dataset, run__isnull=False)
    return not _is_own(row, dataset) and others.exclude(pk=row.pk).exists()


def _is_own(row: InboxFile, dataset: Dataset) -> bool:
    """Whether the dataset was made of this file: it is no older than the taking."""
    return row.taken_at is not None and dataset.created_at >= row.taken_at


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
        inbox.update(row, state=InboxState.FAILED, reason=reason, ended_at=timezone.now())
    else:
        state = InboxState.QUEUED if run.job.status == Status.PENDING else InboxState.RUNNING
        if row.state != state:
            inbox.update(row, state=state)


STEPS: dict[str, Callable[[InboxFile], None]] = {
    InboxState.TAKING: _take, InboxState.VALIDATING: _watch_validation, InboxState.QUEUED: _watch_run,
    InboxState.RUNNING: _watch_run,
}  # fmt: skip


# --- Endings ----------------------------------------------------------------------------------------------------------


def _done(row: InboxFile, reason: str) -> None:
    inbox.update(row, state=InboxState.DONE, reason=reason, ended_at=timezone.now())
    _release(row)
    _prune()


def _release(row: InboxFile) -> None:
    """The file's bytes are its dataset's: what was held of it, or put aside before it was tried again, can go."""
    inbox_files.release(row.pk)
    if row.rejected_as:
        inbox_files.forget_rejected(row.rejected_as)
        inbox.update(row, rejected_as="")


def _reject(row: InboxFile, reason: str) -> None:
    """Puts the file aside and says why; the name there is written down first, so that a kill leaves nothing behind."""
    if not row.rejected_as:
        inbox.update(row, rejected_as=inbox_files.free_name(row.filename))
    held = inbox_files.held_folder(row.pk)
    inbox_files.put_aside(held / DATA, held / OPTIONS, row.rejected_as, reason)
    with transaction.atomic():
        inbox.update(row, state=InboxState.REJECTED, reason=reason, ended_at=timezone.now())
        audit(inbox.INBOX, "inbox.reject", row.filename, reason=reason)
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
