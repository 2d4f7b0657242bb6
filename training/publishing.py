"""Turns what a run has learned into a model that can be registered and served. Runs in the training process.

The folder is written under a hidden name beside its place and renamed when it is whole. It holds safetensors, the
tokenizer with its chat template, and `pilothouse.json`; no path of this host, no pickle.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from peft import PeftModel

from monitoring.attempt import JobFaultError
from monitoring.events import JobSpec
from monitoring.files import FACTS_FILE, model_hashes, publish_folder
from training import checkpoints
from training.config.schema import TrainerConfig
from training.fetch.inspect import ModelFacts, inspect_model, write_facts
from training.models import Start, dtype_on_disk, is_quantized, merged_onto_whole_weights
from training.profiles.base import Profile

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Origin:
    """Where a finished model comes from."""

    spec: JobSpec
    config: TrainerConfig
    profile: Profile
    start: Start

    @property
    def base_id(self) -> str:
        """The id of the whole model that the run started from."""
        inputs = self.spec.inputs
        artefact = inputs.base if inputs.base is not None else inputs.model
        return artefact.id if artefact is not None else ""

    @property
    def run_id(self) -> str:
        """The name of the run's folder."""
        return Path(self.spec.output_dir).name


def publish_model(model: Any, tokenizer: Any, origin: Origin) -> ModelFacts:
    """Writes the finished model to the spec's `model_dir` and returns the facts about it.

    The model is used up: merged, and cast to the number format in which its base was stored. A model that an earlier
    attempt of the same run has published is left as it is. Raises JobFaultError `disk_full`.
    """
    final = Path(origin.spec.model_dir or Path(origin.spec.output_dir) / "model")
    if (published := _published(final, origin)) is not None:
        return published
    temporary = final.with_name(f".{final.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    needed_bytes = _needed_bytes(model, origin)
    try:
        if shutil.disk_usage(temporary).free < needed_bytes:
            raise checkpoints.no_room(temporary, needed_bytes)
        _save(model, temporary, origin)
        tokenizer.save_pretrained(temporary)
        _keep_bytes(origin.start.base / TOKENIZER_FILE, temporary / TOKENIZER_FILE)
        (temporary / "README.md").unlink(missing_ok=True)  # peft's card names paths of this host
        facts = inspect_model(temporary)
        write_facts(temporary, facts, **_more(final, origin))
        publish_folder(temporary, final)
    except JobFaultError:
        raise
    except Exception as error:
        if checkpoints.is_disk_full(error, final.parent):
            raise checkpoints.disk_full(final.parent, error, needed_bytes) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def _needed_bytes(model: Any, origin: Origin) -> int:
    """What must be free before the first byte: what the model will take, and a little to spare."""
    width = dtype_on_disk(origin.start.base).itemsize
    return int(sum(weight.numel() for weight in model.parameters()) * width) + checkpoints.SPARE_BYTES


def _published(final: Path, origin: Origin) -> ModelFacts | None:
    """The facts of the model that stands at `final` already, when it is this run's."""
    path = final / FACTS_FILE
    facts = json.loads(path.read_text()) if path.is_file() else {}
    if facts.get("run") != origin.run_id:
        return None
    return cast(ModelFacts, {name: facts[name] for name in ModelFacts.__annotations__})


def _save(model: Any, folder: Path, origin: Origin) -> None:
    if not isinstance(model, PeftModel):
        _save_whole(model, folder, origin)
    elif not origin.config.output.merge_adapter:
        for adapter in model.peft_config.values():
            adapter.base_model_name_or_path = origin.base_id
        model.save_pretrained(folder)
    elif is_quantized(origin.config):
        _save_whole(_merged_onto_whole_weights(model, folder, origin), folder, origin)
    else:
        _save_whole(model.merge_and_unload(), folder, origin)


def _keep_bytes(original: Path, written: Path) -> None:
    """A tokenizer that says the same is kept byte for byte, so that its hash goes on telling who shares it."""
    if not original.is_file():
        return  # the tokenizer came with the adapter that was continued
    settings = ("truncation", "padding")  # of the last call, not of the tokenizer
    held, saved = (json.loads(path.read_bytes()) for path in (original, written))
    if all(held.get(name) == saved.get(name) for name in {*held, *saved} if name not in settings):
        shutil.copyfile(original, written)


def _save_whole(model: Any, folder: Path, origin: Origin) -> None:
    model.config.use_cache = True  # the trainer has turned it off
    model.to(dtype_on_disk(origin.start.base)).save_pretrained(folder)


def _merged_onto_whole_weights(model: PeftModel, folder: Path, origin: Origin) -> Any:
    """An adapter merged onto its base as stored: onto weights of 8 or 4 bits it would be rounded away."""
    adapter = folder.with_name(f"{folder.name}.adapter")
    try:
        model.save_pretrained(adapter)
        return merged_onto_whole_weights(origin.start.base, adapter)
    finally:
        shutil.rmtree(adapter, ignore_errors=True)


def _more(final: Path, origin: Origin) -> dict[str, Any]:
    dataset = origin.spec.inputs.dataset
    return {
        "id": final.name,
        "base": {"id": origin.base_id, "sha256": base_sha256(origin)},
        "profile": {"name": origin.profile.name, "version": origin.profile.version},
        "run": origin.run_id,
        "dataset": {"id": dataset.id, "sha256": dataset.sha256} if dataset is not None else None,
    }


def base_sha256(origin: Origin) -> str:
    """The hash of the base: the registry's where the spec has it, else one over its files."""
    inputs = origin.spec.inputs
    artefact = inputs.base if inputs.base is not None else inputs.model
    if artefact is not None and artefact.sha256:
        return artefact.sha256
    hashes = model_hashes(origin.start.base)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
