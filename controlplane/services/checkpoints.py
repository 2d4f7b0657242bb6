"""Checkpoints of runs: marked as ones that stay, taken away by hand. Runs in the web process.

A mark is a file `keep.*` beside the manifest, which the retention of the training process heeds
(`training.checkpoints`): so it holds whether a process runs now or not.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Checkpoint, Run
from controlplane.models.access import Actor
from controlplane.models.jobs import Status
from controlplane.services.access import audit

PIN = "pin"
SNAPSHOT = "snapshot"
EVALUATION = "evaluation-"
"""Before the number of an evaluation that has not ended."""


def folder_of(row: Checkpoint) -> Path:
    """Where a checkpoint lies."""
    return row.run.folder / row.path


def marks(row: Checkpoint) -> set[str]:
    """Why retention leaves it alone: PIN, SNAPSHOT, EVALUATION with its number, or the id of a model that was made of
    it. Looks at the disk."""
    return _marks(folder_of(row))


def is_kept(row: Checkpoint) -> bool:
    """Whether retention leaves it alone: pinned, or made into a model, or being copied now."""
    return bool(marks(row))


def _marks(folder: Path) -> set[str]:
    return {path.name.removeprefix("keep.") for path in folder.glob("keep.*")}


def is_pinned(row: Checkpoint) -> bool:
    """Whether a person has pinned it."""
    return PIN in marks(row)


def mark(row: Checkpoint, name: str) -> None:
    """Marks a checkpoint as one that stays. Raises NotFoundError when it has gone at this moment."""
    try:
        (folder_of(row) / f"keep.{name}").touch()
    except OSError as error:
        raise NotFoundError(f"The checkpoint of step {row.step} of run {row.run_id} has just been removed.") from error


def unmark(row: Checkpoint, name: str) -> None:
    """Takes a mark away; one that isn't there is no fault."""
    (folder_of(row) / f"keep.{name}").unlink(missing_ok=True)


def get(run: Run, step: int) -> Checkpoint:
    """The checkpoint of a step that is on the disk. Raises NotFoundError."""
    rows = run.checkpoints.filter(gone_at=None)
    row = rows.filter(step=step).first()
    if row is None:
        there = ", ".join(str(known) for known in rows.order_by("step").values_list("step", flat=True)) or "none"
        raise NotFoundError(f"Run {run.pk} has no checkpoint at step {step}. There are: {there}.")
    if row.coming_from is not None:
        raise ConflictError(
            f"The checkpoint of step {step} is still on its way from {row.coming_from.name}. Wait until it has come."
        )
    return row


def release(row: Checkpoint) -> None:
    """Takes the files of a checkpoint away that its run no longer keeps, unless somebody has marked it now."""
    with suppress(ConflictError):
        shutil.rmtree(_put_aside(row), ignore_errors=True)


def keep(actor: Actor, run: Run, step: int, wanted: bool = True) -> Checkpoint:
    """Pins a checkpoint, or lets it go the way of the others."""
    row = get(run, step)
    actor.require_owner(f"Run {run.pk}", run.created_by)
    with transaction.atomic():
        if wanted:
            mark(row, PIN)
        else:
            unmark(row, PIN)
        audit(actor, "checkpoint.keep", f"run {run.pk} step {step}", keep=wanted)
        publish(f"run:{run.pk}", "reset", {})
    return row


def delete(actor: Actor, run: Run, step: int) -> None:
    """Takes a checkpoint away. Raises ConflictError while its run works, while it is kept, and for the one from which a
    paused run goes on."""
    row = get(run, step)
    actor.require_owner(f"Run {run.pk}", run.created_by)
    if run.job.status in (Status.RUNNING, Status.PENDING):
        raise ConflictError(
            f"Run {run.pk} is {run.job.status}: its checkpoints are its own until it ends or is paused."
        )
    last = run.checkpoints.filter(gone_at=None).order_by("-step").first()
    if not run.job.has_ended and last is not None and last.step == step:
        raise ConflictError(f"Run {run.pk} goes on from step {step}: this checkpoint stays until the run has ended.")
    aside = _put_aside(row)
    with transaction.atomic():
        Checkpoint.objects.filter(pk=row.pk).update(gone_at=timezone.now())
        audit(actor, "checkpoint.delete", f"run {run.pk} step {step}", bytes=row.bytes)
        publish(f"run:{run.pk}", "checkpoint", {"step": step, "gone": True})
    shutil.rmtree(aside, ignore_errors=True)


def _put_aside(row: Checkpoint) -> Path:
    """Renames it to what a process that begins would clear away. Raises ConflictError for one that is kept, also when
    it was marked at this moment."""
    folder = folder_of(row)
    aside = folder.with_name(f".{folder.name}.gone")
    if not is_kept(row):
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):  # it may have gone by another way
            folder.rename(aside)
        if not _marks(aside):
            return aside
        aside.rename(folder)
    asked = sorted(name.removeprefix(EVALUATION) for name in marks(row) if name.startswith(EVALUATION))
    if asked:
        raise ConflictError(
            f"The checkpoint of step {row.step} is kept for evaluation {asked[0]}: cancel that, or wait for its end."
        )
    raise ConflictError(
        f"The checkpoint of step {row.step} is kept: unpin it, or delete the model that was made of it, first."
    )
