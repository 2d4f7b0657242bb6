"""What a snapshot holds, and how it becomes rows again. Runs in the duty `inner jobs` of the web process.

Every model that is ready; of each run the last checkpoint, the best one and those that are kept; and the data base,
where it is SQLite's file. Datasets are not in it: they are their owners' files.
"""

import contextlib
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils.dateparse import parse_datetime

from controlplane.errors import ConflictError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Checkpoint, LanguageModel, Run
from controlplane.models.jobs import Status
from controlplane.models.language_models import ModelState
from controlplane.services import checkpoints, models, run_facts

MODEL_FIELDS = (
    "name", "source", "hub_id", "kind", "architecture", "parameters", "dtype", "size_bytes", "facts", "tags", "profile",
    "checkpoint_step", "created_by",
)  # fmt: skip
DATABASE_FILE = "db.sqlite3"


@dataclass(frozen=True)
class Item:
    """One thing in a snapshot. `held` is a checkpoint that retention must leave alone while it is copied."""

    key: str
    kind: str
    title: str
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    held: Checkpoint | None = None

    def files(self) -> dict[str, Path]:
        """Its files by their path in it; marks are no part of it."""
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        named = {path.relative_to(self.folder).as_posix(): path for path in found}
        return {name: path for name, path in named.items() if not name.startswith("keep.")}

    def known_hashes(self) -> dict[str, str]:
        """The SHA-256 that each file had when it was written, as far as that was noted then."""
        known: dict[str, str] = {}
        for note, of in (("manifest.json", _of_manifest), ("pilothouse.json", _of_facts)):
            try:
                known |= of(json.loads((self.folder / note).read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # no such note, or a torn one: the files are hashed as they are
        return known


def _of_manifest(value: Any) -> dict[str, str]:
    return {name: str(item["sha256"]) for name, item in value["files"].items()}


def _of_facts(value: Any) -> dict[str, str]:
    return {name: str(sha256) for name, sha256 in value["hashes"].items()}


# --- What there is ----------------------------------------------------------------------------------------------------


def collect(scratch: Path, *, with_database: bool) -> list[Item]:
    """What a snapshot taken now holds; a copy of the data base is put into `scratch`."""
    items = [
        _model_item(model) for model in LanguageModel.objects.filter(state=ModelState.READY).order_by("created_at")
    ]
    for run in Run.objects.order_by("id"):
        best = run_facts.best_step(run)
        rows = list(run.checkpoints.filter(gone_at=None).order_by("step"))
        chosen = [row for row in rows if row == rows[-1] or row.step == best or checkpoints.is_kept(row)]
        items += [_checkpoint_item(run, row) for row in chosen]
    if with_database and (path := database_file()) is not None:
        items.append(_database_item(path, scratch))
    return [item for item in items if item.folder.is_dir()]


def _model_item(model: LanguageModel) -> Item:
    facts = {name: getattr(model, name) for name in MODEL_FIELDS}
    facts |= {"base": str(model.base_id) if model.base_id else None, "created_at": model.created_at.isoformat()}
    return Item(f"model/{model.uuid}", "model", model.name, model.folder, facts)


def _checkpoint_item(run: Run, row: Checkpoint) -> Item:
    facts = {
        "run": run.pk, "run_name": run.name, "step": row.step, "path": row.path, "bytes": row.bytes, "loss": row.loss,
        "eval_loss": row.eval_loss, "manifest_sha256": row.manifest_sha256, "created_at": row.created_at.isoformat(),
    }  # fmt: skip
    title = f"run {run.pk} · {run.name}, step {row.step}"
    return Item(f"checkpoint/{run.pk}/{row.step}", "checkpoint", title, checkpoints.folder_of(row), facts, row)


def database_file() -> Path | None:
    """SQLite's file; None where the data base is another, or lies in memory."""
    path = Path(connection.settings_dict["NAME"])
    return path if connection.vendor == "sqlite" and path.is_file() else None


def _database_item(path: Path, scratch: Path) -> Item:
    folder = scratch / "database"
    folder.mkdir()
    copy_database(path, folder / DATABASE_FILE)
    return Item("database", "database", "the data base", folder)


def copy_database(source: Path, target: Path) -> None:
    """SQLite's own copying: one consistent state, while others write. By a connection of its own, which only reads."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reader,
        contextlib.closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)


# --- Back again -------------------------------------------------------------------------------------------------------


def place_of(item: dict[str, Any], home: Path, snapshot: str) -> Path:
    """Where an item is restored to. Raises ConflictError where it is there already or doesn't fit what is there."""
    kind, facts = item["kind"], item["facts"]
    if kind == "model":
        place = home / "models" / str(UUID(item["key"].removeprefix("model/")))
        _check_model(item)
    elif kind == "checkpoint":
        place = _run_of(facts).folder / "checkpoints" / f"step-{int(facts['step'])}"
    else:
        place = home / "backups" / f"database-{snapshot}"
    if place.exists():
        raise ConflictError(f"{item['title']} is there already, at {place}. Delete it first, or leave it as it is.")
    return place


def _check_model(item: dict[str, Any]) -> None:
    facts, uuid = item["facts"], UUID(item["key"].removeprefix("model/"))
    if LanguageModel.objects.filter(name=facts["name"]).exclude(uuid=uuid).exists():
        raise ConflictError(f"Another model is called {facts['name']} now. Delete or rename that one first.")
    if facts["base"] and not LanguageModel.objects.filter(uuid=UUID(facts["base"]), state=ModelState.READY).exists():
        raise ConflictError(f"{facts['name']} needs its base, which is not here. Restore that model first.")


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
            raise ConflictError(f"The snapshot names a file {name!r}, which has no place in {item['title']}.")


def register(item: dict[str, Any]) -> None:
    """Makes the row of an item whose files are back."""
    facts = item["facts"]
    if item["kind"] == "model":
        with transaction.atomic():
            values = {name: facts[name] for name in MODEL_FIELDS} | {"base_id": facts["base"] and UUID(facts["base"])}
            values |= {"state": ModelState.READY, "error": "", "created_at": parse_datetime(facts["created_at"])}
            uuid = UUID(item["key"].removeprefix("model/"))
            model, _ = LanguageModel.objects.update_or_create(uuid=uuid, defaults=values)
            publish("models", "status", models.facts(model))
    elif item["kind"] == "checkpoint":
        with transaction.atomic():
            run = _run_of(facts)
            values = {name: facts[name] for name in ("bytes", "loss", "eval_loss", "manifest_sha256")}
            values["path"] = f"checkpoints/step-{int(facts['step'])}"  # where its files were put, whatever was written
            values |= {"created_at": parse_datetime(facts["created_at"]), "gone_at": None}
            row, _ = Checkpoint.objects.update_or_create(run=run, step=facts["step"], defaults=values)
            publish(f"run:{run.pk}", "checkpoint", run_facts.checkpoint(row, run_facts.best_step(run)))
