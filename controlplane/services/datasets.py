"""Datasets: found, told, looked into, deleted. Runs in the web process.

How a file becomes one is `services.dataset_intake`'s, how it is checked `services.dataset_checks`'s.
"""

import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import transaction

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Dataset, Run
from controlplane.models.access import Actor, Role
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import ENDED
from controlplane.row_ids import row_id
from controlplane.services import lineage as lineage_service
from controlplane.services.access import audit
from training.data.rows import UnreadableRowsError, read_rows

MAX_PREVIEW_ROWS = 200
ASIDE = "dataset-gone-"
"""How folders under `tmp/` begin that only wait for their removal."""

LEFT_BEHIND_SECONDS = 3600.0


# --- Looking ----------------------------------------------------------------------------------------------------------


def get(ref: int | str) -> Dataset:
    """A dataset by its id, or by its name (the newest version). Raises NotFoundError."""
    rows = Dataset.objects.select_related("job")
    found = None
    number = ref if isinstance(ref, int) else row_id(ref)
    if number is not None:
        found = rows.filter(pk=number).first()
    if found is None and isinstance(ref, str):
        found = rows.filter(name=ref).order_by("-version").first()
    if found is None:
        raise NotFoundError(f"There is no dataset {ref!r}. GET /api/datasets lists them.")
    return found


def list_datasets() -> list[Dataset]:
    """All datasets, newest first."""
    return list(Dataset.objects.select_related("job").defer("report"))


def list_ready() -> list[Dataset]:
    """The datasets that a run can learn from, newest first."""
    return list(Dataset.objects.filter(status=DatasetStatus.READY).defer("report"))


def facts(dataset: Dataset) -> dict[str, Any]:
    """A dataset as lists and the live topic tell it."""
    return {
        "id": dataset.pk, "name": dataset.name, "version": dataset.version, "status": dataset.status,
        "bytes": dataset.bytes, "sha256": dataset.sha256, "filename": dataset.filename, "examples": dataset.examples,
        "eval_fraction": dataset.eval_fraction, "reason": dataset.reason, "job_id": dataset.job_id,
        "progress": dataset.job.progress if dataset.job and not dataset.job.has_ended else None,
        "created_by": dataset.created_by, "created_at": dataset.created_at.isoformat(),
    }  # fmt: skip


def whole_facts(dataset: Dataset) -> dict[str, Any]:
    """The same with its lineage and the report: faults by line, how many there are in all, token statistics."""
    return {**facts(dataset), "lineage": lineage_service.facts(dataset), "report": dataset.report}


def preview(dataset: Dataset, offset: int, limit: int) -> dict[str, Any]:
    """Rows as they will be trained on: {"offset", "total", "rows": [{"messages"} or {"text"}]}.

    Raises ConflictError before the dataset is validated, InvalidInputError for figures that can't be.
    """
    if offset < 0 or not 1 <= limit <= MAX_PREVIEW_ROWS:
        raise InvalidInputError(f"offset must be 0 or more, limit between 1 and {MAX_PREVIEW_ROWS}.")
    if not dataset.rows_path.exists():
        raise ConflictError(
            f"{dataset} has no rows to show: "
            + ("it was rejected. Its report says why." if dataset.status == DatasetStatus.REJECTED
               else "it is still being validated.")
        )  # fmt: skip
    try:
        rows = read_rows(dataset.rows_path, offset, limit)
    except UnreadableRowsError as error:
        raise ConflictError(f"The rows of {dataset} can't be read: {error}") from error
    return {"offset": offset, "total": dataset.examples, "rows": rows}


def source_path(dataset: Dataset) -> Path:
    """The file as it was uploaded. Raises NotFoundError when it has gone from the disk."""
    found = sorted(dataset.folder.glob("source.*"))
    if not found:
        raise NotFoundError(f"The file of {dataset} is no longer on the disk. Upload it again.")
    return found[0]


def announce(dataset: Dataset) -> None:
    """Tells lists what the dataset is now. Inside a transaction."""
    publish("datasets", "status", facts(dataset))


# --- Deleting ---------------------------------------------------------------------------------------------------------


def delete(actor: Actor, dataset_id: int) -> None:
    """Takes a dataset and its files away. Raises ConflictError while a run or its validation uses it.

    The files leave their place before the row does for others: an upload of the same bytes that finds no row may put
    its own there at once.
    """
    actor.require(Role.USE)
    dataset = get(dataset_id)
    actor.require_owner(f"The dataset {dataset}", dataset.created_by)
    folder, aside = dataset.folder, name_aside()
    try:
        with transaction.atomic():
            _check_unused(dataset)
            dataset.delete()
            audit(actor, "dataset.delete", dataset, sha256=dataset.sha256)
            publish("datasets", "status", {"id": dataset_id, "gone": True})
            if folder.exists():
                folder.rename(aside)
    except BaseException:
        if aside.exists():  # the row has stayed
            aside.rename(folder)
        raise
    remove_aside(aside)


def _check_unused(dataset: Dataset) -> None:
    """Raises ConflictError while a run, as its training or evaluation set, or the validation uses a dataset."""
    if (run := dataset.runs.order_by("-id").first()) is not None:
        raise ConflictError(f"{dataset} is used by run {run}. Delete that run first.")
    evaluating = Run.objects.filter(config__data__eval_dataset=str(dataset.pk))
    if (run := evaluating.order_by("-id").first()) is not None:
        raise ConflictError(f"{dataset} is the evaluation set of run {run}. Delete that run first.")
    if (sweep := dataset.run_sweeps.first()) is not None:
        raise ConflictError(f"{dataset} is used by sweep {sweep}. Delete that sweep first.")
    job = dataset.job
    if job is not None and job.status not in ENDED:
        raise ConflictError(f"{dataset} is being validated by job {job.pk}. Cancel it first, or wait.")


def name_aside() -> Path:
    """A place under `tmp/` to which a folder can be renamed."""
    return Path(django_settings.HOME) / "tmp" / f"{ASIDE}{uuid.uuid4().hex}"


def remove_aside(aside: Path) -> None:
    """Removes a folder set aside, and those that processes left which died before they came to it."""
    shutil.rmtree(aside, ignore_errors=True)
    for left in aside.parent.glob(f"{ASIDE}*"):
        with suppress(FileNotFoundError):
            if left.stat().st_ctime < time.time() - LEFT_BEHIND_SECONDS:  # a rename sets it
                shutil.rmtree(left, ignore_errors=True)
