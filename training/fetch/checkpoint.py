"""A model from a run's checkpoint: verified against its manifest, copied without optimizer state.

Runs in the `fetch` job.
"""

import json
from pathlib import Path

from monitoring.attempt import JobFaultError
from monitoring.files import FACTS_FILE, sha256_of, write_json
from training import checkpoints
from training.fetch.copying import copy_files
from training.fetch.inspect import model_sha256
from training.fetch.layout import wanted_names
from training.fetch.request import Fetched, FetchRequest

STATE_FILES = frozenset({checkpoints.MANIFEST_FILE, "trainer_state.json", FACTS_FILE})
"""JSON of the training, not of the model."""


def fetch_checkpoint(request: FetchRequest) -> Fetched:
    """Copies the model files of the checkpoint at `config.path`. Raises JobFaultError: `checkpoint_damaged`,
    `no_base`, `disk_full`."""
    folder = Path(request.config.path)
    manifest = checkpoints.verify(folder)
    names = [name for name in wanted_names(manifest.files) if name not in STATE_FILES]
    copy_files({name: folder / name for name in names}, request.folder, request.events)
    source = {
        "kind": "checkpoint",
        "run": folder.parent.parent.name,
        "step": str(manifest.step),
        "manifest_sha256": sha256_of(folder / checkpoints.MANIFEST_FILE),
    }
    base = _name_base(request) if "adapter_config.json" in names else None
    return Fetched(source=source, base=base, profile=manifest.profile or None)


def _name_base(request: FetchRequest) -> dict[str, str]:
    """Makes an adapter name its base by the registry's id: in a checkpoint it is the path on the host of the run."""
    base = request.base
    if base is None:
        raise JobFaultError(
            "no_base",
            "The checkpoint is an adapter, and the job does not say of which model.",
            "Register its base first.",
        )
    path = request.folder / "adapter_config.json"
    write_json(path, {**json.loads(path.read_bytes()), "base_model_name_or_path": base.id})
    return {"id": base.id, "sha256": base.sha256 or model_sha256(Path(base.path))}
