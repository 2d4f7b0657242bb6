"""How a dataset is checked: a job of one of three levels, and what its end means. Runs in the web process.

STANDARD, of every row, says what a dataset is worth; QUICK and DEEP add to its report.
"""

from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models import Dataset, Job
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.datasets import DatasetStatus, Level
from controlplane.models.jobs import ENDED, Kind
from controlplane.services import datasets, jobs
from controlplane.services.access import audit
from training.profiles.base import profile_names

LEVEL_TITLES = {Level.QUICK: " (quick)", Level.STANDARD: "", Level.DEEP: " (deep)"}


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
        datasets.announce(dataset)
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
        for wanted in (dataset, *([datasets.get(eval_dataset)] if eval_dataset is not None else [])):
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
    datasets.announce(dataset)
    if level == Level.QUICK and not _is_known(dataset):
        _go_on(dataset, report)


def _go_on(dataset: Dataset, report: dict[str, Any]) -> None:
    """After a QUICK check of a dataset that has had no other: all rows are checked, or it is rejected."""
    if report["passed"]:
        _queue(SYSTEM, dataset, Level.STANDARD, {})
        return
    dataset.status, dataset.reason = DatasetStatus.REJECTED, report["reason"]
    dataset.save(update_fields=["status", "reason"])
    datasets.announce(dataset)


def validating(dataset_id: int, level: str = Level.STANDARD) -> None:
    """The check that says what it is worth is queued once more. Inside the transaction that does so."""
    dataset = Dataset.objects.filter(pk=dataset_id).first()
    if dataset is not None and not (level != Level.STANDARD and _is_known(dataset)):
        dataset.status, dataset.reason = DatasetStatus.VALIDATING, ""
        dataset.save(update_fields=["status", "reason"])
        datasets.announce(dataset)


def failed(dataset_id: int, error: dict[str, str], level: str = Level.STANDARD) -> None:
    """The check came to no end: unless another one knows better, the dataset can't be used. Inside the ingest
    transaction."""
    dataset = Dataset.objects.filter(pk=dataset_id).first()
    if dataset is None:
        return
    if level != Level.STANDARD and _is_known(dataset):
        datasets.announce(dataset)
        return
    sentence = f"It could not be validated: {error.get('message', 'the job ended early')} {error.get('fix', '')}"
    dataset.status, dataset.reason = DatasetStatus.REJECTED, sentence.strip()
    dataset.save(update_fields=["status", "reason"])
    datasets.announce(dataset)
