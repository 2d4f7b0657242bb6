"""How an item of a snapshot becomes a row again, and where its files go. Runs in the web process.

A snapshot's list may have been tampered with: nothing that it says is used as a path.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils.dateparse import parse_datetime

from controlplane.errors import ConflictError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Checkpoint, Dataset, LanguageModel, Run
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import Status
from controlplane.models.language_models import ModelState
from controlplane.services import datasets, models, run_facts
from controlplane.services.snapshot_items import DATASET_FIELDS, LATER_MODEL_FIELDS, MODEL_FIELDS

SHA256 = re.compile(r"[0-9a-f]{64}")


def place_of(item: dict[str, Any], home: Path, snapshot: str) -> Path:
    """Where an item is restored to. Raises ConflictError where it is there already or doesn't fit what is there."""
    kind, facts = item["kind"], item["facts"]
    if kind == "model":
        place = home / "models" / str(_uuid_of(item))
        _check_model(item)
    elif kind == "checkpoint":
        place = _run_of(facts).folder / "checkpoints" / f"step-{int(facts['step'])}"
    elif kind == "dataset":
        place = home / "datasets" / _sha256_of(item)
        _check_dataset(item)
    else:
        place = home / "backups" / f"database-{snapshot}"
    if place.exists():
        raise ConflictError(f"{item['title']} is there already, at {place}. Delete it first, or leave it as it is.")
    return place


def _uuid_of(item: dict[str, Any]) -> UUID:
    try:
        return UUID(item["key"].removeprefix("model/"))
    except ValueError:
        raise _no_place(item, item["key"]) from None


def _sha256_of(item: dict[str, Any]) -> str:
    sha256: str = item["key"].removeprefix("dataset/")
    if not SHA256.fullmatch(sha256):
        raise _no_place(item, sha256)
    return sha256


def _no_place(item: dict[str, Any], name: str) -> ConflictError:
    return ConflictError(f"The snapshot names a file {name!r}, which has no place in {item['title']}.")


def _check_model(item: dict[str, Any]) -> None:
    facts = item["facts"]
    if LanguageModel.objects.filter(name=facts["name"]).exclude(uuid=_uuid_of(item)).exists():
        raise ConflictError(f"Another model is called {facts['name']} now. Delete or rename that one first.")
    if facts["base"] and not LanguageModel.objects.filter(uuid=UUID(facts["base"]), state=ModelState.READY).exists():
        raise ConflictError(f"{facts['name']} needs its base, which is not here. Restore that model first.")


def _check_dataset(item: dict[str, Any]) -> None:
    row = Dataset.objects.select_related("job").filter(sha256=_sha256_of(item)).first()
    if row is not None and row.job is not None and not row.job.has_ended:
        raise ConflictError(f"{row} is being checked by job {row.job_id}. Wait, or cancel that first.")


def _run_of(facts: dict[str, Any]) -> Run:
    run = Run.objects.select_related("job").filter(pk=facts["run"], name=facts["run_name"]).first()
    if run is None:
        raise NotFoundError(
            f"Run {facts['run']} · {facts['run_name']} is not on the books any more: a checkpoint goes back to its run."
        )
    if run.job.status in (Status.RUNNING, Status.PENDING):
        raise ConflictError(f"Run {run.pk} is {run.job.status}: pause it, or wait for its end, then restore.")
    return run


def check_names(item: dict[str, Any]) -> None:
    """Raises ConflictError where a name in a manifest would lead out of its folder."""
    for name in item["files"]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0].startswith("keep."):
            raise _no_place(item, name)


# --- Rows -------------------------------------------------------------------------------------------------------------


def register(item: dict[str, Any]) -> None:
    """Makes the row of an item whose files are back. Raises ConflictError, with nothing written, where it can't be."""
    make = {"model": _register_model, "checkpoint": _register_checkpoint, "dataset": _register_dataset}
    if item["kind"] not in make:
        return
    try:
        with transaction.atomic():
            make[item["kind"]](item)
    except IntegrityError as error:
        raise ConflictError(f"{item['title']} meets one of the same name that has just come: {error}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConflictError(f"The snapshot's facts of {item['title']} can't be read: {error!r}.") from error


def _register_model(item: dict[str, Any]) -> None:
    """The model is linked with its run and dataset again where these are on the books (still, or again)."""
    facts = item["facts"]
    values = {name: facts[name] for name in MODEL_FIELDS} | {"base_id": facts["base"] and UUID(facts["base"])}
    values |= {name: facts[name] for name in LATER_MODEL_FIELDS if name in facts}
    values |= {"state": ModelState.READY, "error": "", "created_at": parse_datetime(facts["created_at"])}
    if (dataset := Dataset.objects.filter(sha256=facts.get("dataset_sha256") or "").first()) is not None:
        values["dataset"] = dataset
    if (made_by := facts.get("run")) and (run := Run.objects.filter(pk=made_by["id"], name=made_by["name"]).first()):
        values["run"] = run
    model, _ = LanguageModel.objects.update_or_create(uuid=_uuid_of(item), defaults=values)
    publish("models", "status", models.facts(model))


def _register_checkpoint(item: dict[str, Any]) -> None:
    facts = item["facts"]
    run = _run_of(facts)
    values = {name: facts[name] for name in ("bytes", "loss", "eval_loss", "manifest_sha256")}
    values["path"] = f"checkpoints/step-{int(facts['step'])}"  # where its files were put, whatever was written
    values |= {"created_at": parse_datetime(facts["created_at"]), "gone_at": None}
    row, _ = Checkpoint.objects.update_or_create(run=run, step=facts["step"], defaults=values)
    publish(f"run:{run.pk}", "checkpoint", run_facts.checkpoint(row, run_facts.best_step(run)))


def _register_dataset(item: dict[str, Any]) -> None:
    """One whose row is there keeps its name; otherwise it gets its own version, or the next where that is taken."""
    facts, sha256 = item["facts"], _sha256_of(item)
    values = {name: facts[name] for name in DATASET_FIELDS if name not in ("name", "version", "sha256")}
    values |= {"status": DatasetStatus.READY, "created_at": parse_datetime(facts["created_at"])}
    row = Dataset.objects.filter(sha256=sha256).first() or Dataset(
        sha256=sha256, name=facts["name"], version=_free_version(facts["name"], facts["version"])
    )
    for name, value in values.items():
        setattr(row, name, value)
    row.save()
    publish("datasets", "status", datasets.facts(row))


def _free_version(name: str, wanted: int) -> int:
    taken = Dataset.objects.filter(name=name)
    if not taken.filter(version=wanted).exists():
        return wanted
    return int(taken.aggregate(Max("version"))["version__max"]) + 1
