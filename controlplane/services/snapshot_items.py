"""What a snapshot holds. Runs in the duty `inner jobs` of the web process.

Every model that is ready; of each run the last checkpoint, the best one and those that are kept; every dataset that is
ready (`snapshots.datasets`); and the data base, where it is SQLite's file (`snapshots.database`).
"""

import contextlib
import json
import os
import sqlite3
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import connection

from controlplane.models import Checkpoint, Dataset, LanguageModel, Run
from controlplane.models.datasets import DatasetStatus
from controlplane.models.language_models import ModelState
from controlplane.services import checkpoints, run_facts, settings
from monitoring.files import EXPORTS_FOLDER

MODEL_FIELDS = (
    "name", "source", "hub_id", "kind", "architecture", "parameters", "dtype", "size_bytes", "facts", "tags", "profile",
    "checkpoint_step", "created_by",
)  # fmt: skip
LATER_MODEL_FIELDS = ("family", "version")
"""What older snapshots don't have."""

DATASET_FIELDS = (
    "name", "version", "filename", "sha256", "bytes", "examples", "report", "reason", "eval_fraction", "rejected_rows",
    "generator", "generator_version", "parents", "created_by",
)  # fmt: skip
DATABASE_FILE = "db.sqlite3"
NO_PART = ("keep.", f"{EXPORTS_FOLDER}/")
"""Marks, and what a model can be exported to again."""


@dataclass(frozen=True)
class Item:
    """One thing in a snapshot. `held` is a checkpoint that retention must leave alone while it is copied."""

    key: str
    kind: str
    title: str
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    held: Checkpoint | None = None


@dataclass(frozen=True)
class File:
    """A file of an item; `sha256` is the hash that it had when it was written, None where that was not noted then."""

    path: Path
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Contents:
    """An item with what lay in it at one look: its files by their path in it, and the names of those that have gone."""

    item: Item
    files: dict[str, File]
    missing: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of all its files."""
        return sum(file.bytes for file in self.files.values())


def read(item: Item) -> Contents:
    """Looks into an item's folder, once. What goes meanwhile is left out; marks and exports are no part of it."""
    noted, files = _noted(item), dict[str, File]()
    for folder, _, names in os.walk(item.folder):
        for name in names:
            path = Path(folder) / name
            shown = path.relative_to(item.folder).as_posix()
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                if stat.S_ISREG(facts.st_mode) and not shown.startswith(NO_PART):
                    files[shown] = File(path, facts.st_size, noted.get(shown))
    return Contents(item, dict(sorted(files.items())), tuple(sorted(set(noted) - set(files))))


def _noted(item: Item) -> dict[str, str]:
    """The SHA-256 that each file had when it was written, as far as that was noted then."""
    if item.kind == "dataset":
        return {path.name: str(item.facts["sha256"]) for path in item.folder.glob("source.*")}
    noted: dict[str, str] = {}
    for note, of in (("manifest.json", _of_manifest), ("pilothouse.json", _of_facts)):
        try:
            noted |= of(json.loads((item.folder / note).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # no such note, or a torn one: the files are hashed as they are
    return noted


def _of_manifest(value: Any) -> dict[str, str]:
    return {name: str(item["sha256"]) for name, item in value["files"].items()}


def _of_facts(value: Any) -> dict[str, str]:
    return {name: str(sha256) for name, sha256 in value["hashes"].items()}


# --- What there is ----------------------------------------------------------------------------------------------------


def collect(scratch: Path) -> list[Item]:
    """What a snapshot taken now holds; a copy of the data base is put into `scratch`."""
    ready = LanguageModel.objects.filter(state=ModelState.READY).select_related("dataset", "run")
    items = [_model_item(model) for model in ready.order_by("created_at")]
    for run in Run.objects.order_by("id"):
        best = run_facts.best_step(run)
        rows = list(run.checkpoints.filter(gone_at=None).order_by("step"))
        chosen = [row for row in rows if row == rows[-1] or row.step == best or checkpoints.is_kept(row)]
        items += [_checkpoint_item(run, row) for row in chosen]
    if settings.get("snapshots.datasets"):
        items += [_dataset_item(row) for row in Dataset.objects.filter(status=DatasetStatus.READY).order_by("id")]
    if settings.get("snapshots.database") and (path := database_file()) is not None:
        items.append(_database_item(path, scratch))
    return [item for item in items if item.folder.is_dir()]


def _model_item(model: LanguageModel) -> Item:
    facts = {name: getattr(model, name) for name in (*MODEL_FIELDS, *LATER_MODEL_FIELDS)}
    facts |= {
        "base": str(model.base_id) if model.base_id else None, "created_at": model.created_at.isoformat(),
        "dataset_sha256": model.dataset.sha256 if model.dataset else None,
        "run": {"id": model.run.pk, "name": model.run.name} if model.run else None,
    }  # fmt: skip
    return Item(f"model/{model.uuid}", "model", model.name, model.folder, facts)


def _checkpoint_item(run: Run, row: Checkpoint) -> Item:
    facts = {
        "run": run.pk, "run_name": run.name, "step": row.step, "path": row.path, "bytes": row.bytes, "loss": row.loss,
        "eval_loss": row.eval_loss, "manifest_sha256": row.manifest_sha256, "created_at": row.created_at.isoformat(),
    }  # fmt: skip
    title = f"run {run.pk} · {run.name}, step {row.step}"
    return Item(f"checkpoint/{run.pk}/{row.step}", "checkpoint", title, checkpoints.folder_of(row), facts, row)


def _dataset_item(row: Dataset) -> Item:
    facts = {name: getattr(row, name) for name in DATASET_FIELDS} | {"created_at": row.created_at.isoformat()}
    return Item(f"dataset/{row.sha256}", "dataset", str(row), row.folder, facts)


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
