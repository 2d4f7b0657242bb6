"""Datasets: taken in, validated, looked at, deleted. Runs in the web process.

A file is known by its SHA-256: it lies once under `datasets/SHA256/source.*`, whichever way and however often it came.
"""

import errno
import hashlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings as django_settings
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, TooLargeError
from controlplane.live.announce import publish
from controlplane.models import Dataset, Job, Run
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.datasets import DatasetStatus, Level
from controlplane.models.jobs import ENDED, Kind
from controlplane.services import jobs
from controlplane.services import lineage as lineage_service
from controlplane.services.access import audit
from controlplane.services.lineage import Lineage
from monitoring.files import publish_folder
from training.data.rows import UnreadableRowsError, read_rows
from training.profiles.base import profile_names

SMALL_FILE_BYTES = 32 << 20
SUFFIXES = (".jsonl", ".json", ".ndjson", ".txt", ".csv", ".tsv", ".parquet", ".gz")
"""What a file may be called; its first bytes tell what it is (`training.data.sources`)."""
MAX_PREVIEW_ROWS = 200
UNSAID = Lineage()
LEVEL_TITLES = {Level.QUICK: " (quick)", Level.STANDARD: "", Level.DEEP: " (deep)"}
ASIDE = "dataset-gone-"
"""How folders under `tmp/` begin that only wait for their removal."""

LEFT_BEHIND_SECONDS = 3600.0

OTHER_WAY = (
    "Send it in parts instead: POST /api/uploads says how large a part is, PUT /api/uploads/ID/parts/N takes each, "
    "POST /api/uploads/ID/complete makes the dataset. The upload form does the same."
)


class ReceivedFile(Protocol):
    """What a multipart form brings (`django.core.files.uploadedfile.UploadedFile`)."""

    @property
    def name(self) -> str | None: ...
    @property
    def size(self) -> int | None: ...
    def chunks(self, chunk_size: int | None = None) -> Iterable[bytes]: ...


# --- Checks -----------------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """The name, trimmed. Raises InvalidInputError unless it has 1 to 200 printable characters."""
    name = name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidInputError("A dataset's name has 1 to 200 printable characters.")
    return name


def check_eval_fraction(fraction: float) -> float:
    """The fraction. Raises InvalidInputError unless it lies in [0, 0.5]."""
    if not 0 <= fraction <= 0.5:  # NaN fails too
        raise InvalidInputError("eval_fraction must lie between 0 and 0.5: the share of rows kept for evaluation.")
    return float(fraction)


def check_filename(filename: str) -> str:
    """The last part of a name as a browser sends it. Raises InvalidInputError for a name or suffix we don't take."""
    name = filename.replace("\\", "/").rpartition("/")[2].strip()
    if not name or len(name) > 255 or not name.isprintable():
        raise InvalidInputError("A file name has 1 to 255 printable characters.")
    if Path(name).suffix.lower() not in SUFFIXES:
        raise InvalidInputError(
            f"{name} has no suffix that a dataset may have ({', '.join(SUFFIXES)}). "
            "Give JSON lines, a JSON array, CSV or Parquet, plain or gzipped."
        )
    return name


# --- Taking in --------------------------------------------------------------------------------------------------------


def receive_small(
    actor: Actor, file: ReceivedFile, name: str, eval_fraction: float, lineage: Lineage = UNSAID
) -> tuple[Dataset, bool]:
    """Takes a file that came in one piece. Returns the dataset and whether it is new.

    Raises InvalidInputError for what it is called, TooLargeError beyond SMALL_FILE_BYTES.
    """
    actor.require(Role.USE)
    name, eval_fraction, lineage = check_name(name), check_eval_fraction(eval_fraction), lineage.check()
    filename = check_filename(file.name or "")
    if (file.size or 0) > SMALL_FILE_BYTES:
        raise TooLargeError(f"The file has {file.size} bytes; a form takes {SMALL_FILE_BYTES}. {OTHER_WAY}")
    if not file.size:
        raise InvalidInputError(f"{filename} is empty. Give a file with one JSON object a line.")
    with tempfile.NamedTemporaryFile(dir=Path(django_settings.HOME) / "tmp", prefix="dataset-") as stream:
        digest = hashlib.sha256()
        for block in file.chunks():
            digest.update(block)
            stream.write(block)
        stream.flush()
        return adopt(
            actor, Path(stream.name), sha256=digest.hexdigest(), filename=filename, name=name,
            eval_fraction=eval_fraction, lineage=lineage,
        )  # fmt: skip


def adopt(
    actor: Actor, source: Path, *, sha256: str, filename: str, name: str, eval_fraction: float,
    level: str = Level.STANDARD, lineage: Lineage = UNSAID,
) -> tuple[Dataset, bool]:  # fmt: skip
    """Makes a dataset of a file under `tmp/` whose hash is known, and has it checked; the file is linked, not moved.

    With the level QUICK a sample is looked at first, and all rows only when that passes.

    Returns the dataset that has this hash already, and False, when there is one. The caller has checked the words.
    """
    if (existing := Dataset.objects.filter(sha256=sha256).first()) is not None:
        return existing, False
    _publish_source(source, sha256, Path(filename).suffix.lower())
    try:
        with transaction.atomic():
            last = Dataset.objects.filter(name=name).aggregate(Max("version"))["version__max"] or 0
            dataset = Dataset.objects.create(
                name=name, version=last + 1, filename=filename, sha256=sha256, bytes=source.stat().st_size,
                eval_fraction=eval_fraction, created_by=actor.name, generator=lineage.generator,
                generator_version=lineage.version, parents=lineage.parent_facts(),
            )  # fmt: skip
            if not _is_whole(dataset.folder, dataset.bytes):  # a row that had the same bytes came and went meanwhile
                raise ConflictError(f"The same file was deleted at this moment. Send {filename} again.")
            audit(actor, "dataset.create", dataset, sha256=sha256, bytes=dataset.bytes)
            validate(actor, dataset, level)
    except IntegrityError:
        existing = Dataset.objects.filter(sha256=sha256).first()
        if existing is None:
            raise ConflictError(f"Another file became {name} at this moment. Send yours again.") from None
        return existing, False
    return dataset, True


def _publish_source(source: Path, sha256: str, suffix: str) -> None:
    """Puts the file in its place in one step, unless it is there. What a crash has left of it makes way."""
    home = Path(django_settings.HOME)
    final = home / "datasets" / sha256
    if final.exists() and not _is_whole(final, source.stat().st_size):
        aside = _name_aside()
        final.rename(aside)
        _remove(aside)
    with tempfile.TemporaryDirectory(dir=home / "tmp", prefix="dataset-") as name:
        folder = Path(name) / sha256
        folder.mkdir()
        (folder / f"source{suffix}").hardlink_to(source)
        try:
            publish_folder(folder, final)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise


def _is_whole(folder: Path, size_bytes: int) -> bool:
    """Whether a folder holds the file that its name is the hash of, by its size."""
    return [entry.stat().st_size for entry in folder.glob("source.*")] == [size_bytes]


# --- Validation -------------------------------------------------------------------------------------------------------


def validate(
    actor: Actor, dataset: Dataset, level: str = Level.STANDARD, *, profile: str = "", eval_dataset: int | None = None
) -> Job:
    """Queues a check. STANDARD, of every row, makes the dataset `validating` until `finished` or `failed`.

    QUICK looks at a sample of rows; DEEP at leaks, doubles, what is shared with `eval_dataset`, and what `profile`
    finds wrong. Neither changes the status of a dataset that STANDARD has seen. Raises InvalidInputError for words that
    mean nothing, ConflictError while the dataset is being checked, and where the level can't be had now.
    """
    actor.require(Role.USE)
    with transaction.atomic():
        _check_validation(dataset, level, profile, eval_dataset)
        options = {"profile": profile, "eval_dataset": eval_dataset} if level == Level.DEEP else {}
        return _queue(actor, dataset, level, options)


def _queue(actor: Actor, dataset: Dataset, level: str, options: dict[str, Any]) -> Job:
    with transaction.atomic():
        job = jobs.create(
            actor, Kind.VALIDATE, f"Validate {dataset}{LEVEL_TITLES[Level(level)]}",
            {"dataset": dataset.pk, "level": level, **options},
        )  # fmt: skip
        dataset.job = job
        if level == Level.STANDARD or not _is_known(dataset):
            dataset.status, dataset.reason = DatasetStatus.VALIDATING, ""
        dataset.save(update_fields=["status", "job", "reason"])
        audit(actor, "dataset.validate", dataset, level=level)
        _announce(dataset)
    return job


def _check_validation(dataset: Dataset, level: str, profile: str, eval_dataset: int | None) -> None:
    if level not in Level.values:
        raise InvalidInputError(f"There is no level {level!r}. Levels are {', '.join(Level.values)}.")
    if dataset.job is not None and dataset.job.status not in ENDED:
        raise ConflictError(f"{dataset} is being checked by job {dataset.job_id}. Wait, or cancel that first.")
    if level != Level.DEEP and (profile or eval_dataset is not None):
        raise InvalidInputError("profile and eval_dataset belong to the level deep. Leave them out, or ask for deep.")
    if level == Level.STANDARD:
        training = dataset.runs.exclude(job__status__in=ENDED).order_by("id").first()
        if training is not None:
            raise ConflictError(f"Run {training} trains on {dataset}, whose rows would be written anew. Wait for it.")
    elif level == Level.DEEP:
        for wanted in (dataset, *([get(eval_dataset)] if eval_dataset is not None else [])):
            if wanted.status != DatasetStatus.READY:
                raise ConflictError(f"{wanted} is {wanted.status}; the level deep reads rows that are ready.")
        if profile and profile not in profile_names():
            raise InvalidInputError(f"There is no profile {profile!r}. There are: {', '.join(profile_names())}.")


def _is_known(dataset: Dataset) -> bool:
    """Whether the level STANDARD has said what the dataset is worth."""
    return dataset.status in {DatasetStatus.READY, DatasetStatus.REJECTED}


def finished(dataset_id: int, values: dict[str, Any]) -> None:
    """Stores what a check found (`training.data.job`). Inside the ingest transaction."""
    dataset = Dataset.objects.filter(pk=dataset_id).first()
    if dataset is None:  # deleted meanwhile
        return
    level, report = values.get("level", Level.STANDARD), values["report"]
    if level == Level.STANDARD:
        dataset.status = DatasetStatus(values["status"])
        dataset.examples, dataset.reason = values["examples"], values["reason"]
        dataset.report, dataset.rejected_rows = report, values.get("faulty")
    else:
        dataset.report = {**(dataset.report or {}), level: {**report, "checked_at": timezone.now().isoformat()}}
    dataset.save(update_fields=["status", "examples", "report", "reason", "rejected_rows"])
    _announce(dataset)
    if level == Level.QUICK and not _is_known(dataset):
        _go_on(dataset, report)


def _go_on(dataset: Dataset, report: dict[str, Any]) -> None:
    """After a QUICK check of a dataset that has had no other: all rows are checked, or it is rejected."""
    if report["passed"]:
        _queue(SYSTEM, dataset, Level.STANDARD, {})
        return
    dataset.status, dataset.reason = DatasetStatus.REJECTED, report["reason"]
    dataset.save(update_fields=["status", "reason"])
    _announce(dataset)


def validating(dataset_id: int, level: str = Level.STANDARD) -> None:
    """The check that says what it is worth is queued once more. Inside the transaction that does so."""
    dataset = Dataset.objects.filter(pk=dataset_id).first()
    if dataset is not None and not (level != Level.STANDARD and _is_known(dataset)):
        dataset.status, dataset.reason = DatasetStatus.VALIDATING, ""
        dataset.save(update_fields=["status", "reason"])
        _announce(dataset)


def failed(dataset_id: int, error: dict[str, str], level: str = Level.STANDARD) -> None:
    """The check came to no end: unless another one knows better, the dataset can't be used. Inside the ingest
    transaction."""
    dataset = Dataset.objects.filter(pk=dataset_id).first()
    if dataset is None:
        return
    if level != Level.STANDARD and _is_known(dataset):
        _announce(dataset)
        return
    sentence = f"It could not be validated: {error.get('message', 'the job ended early')} {error.get('fix', '')}"
    dataset.status, dataset.reason = DatasetStatus.REJECTED, sentence.strip()
    dataset.save(update_fields=["status", "reason"])
    _announce(dataset)


# --- Looking ----------------------------------------------------------------------------------------------------------


def get(ref: int | str) -> Dataset:
    """A dataset by its id, or by its name (the newest version). Raises NotFoundError."""
    rows = Dataset.objects.select_related("job")
    found = None
    if isinstance(ref, int) or (ref.isascii() and ref.isdecimal() and len(ref) < 19):
        found = rows.filter(pk=int(ref)).first()
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


# --- Deleting ---------------------------------------------------------------------------------------------------------


def delete(actor: Actor, dataset_id: int) -> None:
    """Takes a dataset and its files away. Raises ConflictError while a run or its validation uses it.

    The files leave their place before the row does for others: an upload of the same bytes that finds no row may put
    its own there at once.
    """
    actor.require(Role.USE)
    dataset = get(dataset_id)
    if not actor.may_change(dataset.created_by):
        raise ForbiddenError(f"{dataset} belongs to {dataset.created_by}: only they or an admin may delete it.")
    folder, aside = dataset.folder, _name_aside()
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
    _remove(aside)


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


def _name_aside() -> Path:
    """A place under `tmp/` to which a folder can be renamed."""
    return Path(django_settings.HOME) / "tmp" / f"{ASIDE}{uuid.uuid4().hex}"


def _remove(aside: Path) -> None:
    """Removes a folder set aside, and those that processes left which died before they came to it."""
    shutil.rmtree(aside, ignore_errors=True)
    for left in aside.parent.glob(f"{ASIDE}*"):
        with suppress(FileNotFoundError):
            if left.stat().st_ctime < time.time() - LEFT_BEHIND_SECONDS:  # a rename sets it
                shutil.rmtree(left, ignore_errors=True)


def _announce(dataset: Dataset) -> None:
    publish("datasets", "status", facts(dataset))
