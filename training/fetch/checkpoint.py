"""A model from a run's checkpoint: verified against its manifest, copied without optimizer state.

Runs in the `fetch` job.
"""

import json
from pathlib import Path
from typing import Any

from monitoring.attempt import JobFaultError
from monitoring.files import sha256_of
from training.fetch.copying import copy_files
from training.fetch.layout import wanted_names
from training.fetch.request import Fetched, FetchRequest

MANIFEST_FILE = "manifest.json"
STATE_FILES = frozenset({MANIFEST_FILE, "trainer_state.json", "pilothouse.json"})
"""JSON of the training, not of the model."""


def fetch_checkpoint(request: FetchRequest) -> Fetched:
    """Copies the model files of the checkpoint at `config.path`. Raises JobFaultError: `no_checkpoint`,
    `broken_checkpoint`, `disk_full`."""
    folder = Path(request.config.path)
    manifest = read_manifest(folder)
    names = [name for name in wanted_names(manifest) if name not in STATE_FILES]
    for name in names:
        _verify(folder, name, manifest[name])
    copy_files({name: folder / name for name in names}, request.folder, request.events)
    return Fetched(
        source={"kind": "checkpoint", "path": str(folder), "manifest_sha256": sha256_of(folder / MANIFEST_FILE)}
    )


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of a checkpoint with `sha256` and `bytes` each. Raises JobFaultError `no_checkpoint`."""
    path = folder / MANIFEST_FILE
    try:
        files: dict[str, dict[str, Any]] = json.loads(path.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobFaultError(
            "no_checkpoint",
            f"{folder} is not a complete checkpoint: its {MANIFEST_FILE} can't be read.",
            "Take another checkpoint of the run.",
        ) from error
    return files


def _verify(folder: Path, name: str, recorded: dict[str, Any]) -> None:
    path = folder / name
    if not path.is_file() or path.stat().st_size != recorded["bytes"] or sha256_of(path) != recorded["sha256"]:
        raise JobFaultError(
            "broken_checkpoint",
            f"{name} of the checkpoint {folder.name} is missing or not as it was written.",
            "Take another checkpoint of the run.",
        )
