"""What a model folder holds, read without torch: the facts that the registry shows and that `pilothouse.json` keeps.

Runs in the job processes that publish a model (`fetch`, `train`). Weights are looked at through safetensors' headers
alone, so a model of any size is inspected in the memory of its index.
"""

import hashlib
import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any, Literal, TypedDict

from safetensors import SafetensorError, safe_open

from monitoring.attempt import JobFaultError
from monitoring.files import FACTS_FILE, model_hashes, sha256_of, size_of, write_json

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5", ".npy"})
"""Files that run code, or may, when they are opened. No published model holds one."""

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
}  # fmt: skip


_AGAIN = "Fetch or export the model again."


class ModelFaultError(JobFaultError):
    """A folder that can't be taken as a model; `code` says which rule it breaks."""


class ModelFacts(TypedDict):
    """`dtype` is torch's name of the type that most weights have; hashes leave `pilothouse.json` itself out."""

    kind: Literal["full", "adapter"]
    base_model: str | None
    architecture: str | None
    parameters: int
    dtype: str | None
    size_bytes: int
    tokenizer_sha256: str | None
    chat_template_sha256: str | None
    has_chat_template: bool
    hashes: dict[str, str]


def inspect_model(folder: Path) -> ModelFacts:
    """The facts about the model in `folder`.

    Raises ModelFaultError: `no_config`, `bad_config`, `remote_code`, `pickled_weights`, `no_safetensors`,
    `broken_weights`, `missing_weights`.
    """
    refuse_pickles(folder)
    refuse_remote_code(folder)
    is_adapter = (folder / "adapter_config.json").is_file()
    config = read_config(folder / ("adapter_config.json" if is_adapter else "config.json"))
    parameters, dtype = _weights_of(folder)
    tokenizer = folder / "tokenizer.json"
    template = chat_template_of(folder)
    return ModelFacts(
        kind="adapter" if is_adapter else "full",
        base_model=config.get("base_model_name_or_path") or None if is_adapter else None,
        architecture=None if is_adapter else next(iter(config.get("architectures") or []), None),
        parameters=parameters,
        dtype=dtype,
        size_bytes=size_of(folder),
        tokenizer_sha256=sha256_of(tokenizer) if tokenizer.is_file() else None,
        chat_template_sha256=_sha256_of_text(template) if template is not None else None,
        has_chat_template=template is not None,
        hashes=model_hashes(folder),
    )


def write_facts(folder: Path, facts: ModelFacts, **more: Any) -> None:
    """Writes `pilothouse.json`: the facts, and what the caller knows beyond them (id, run, profile, source)."""
    write_json(folder / FACTS_FILE, {**facts, **more})


def model_sha256(folder: Path) -> str:
    """One hash for a whole model: over the hashes of its files, `pilothouse.json` left out."""
    return hashlib.sha256(json.dumps(model_hashes(folder), sort_keys=True).encode()).hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder. Raises ModelFaultError: `no_config`, `bad_config`, `remote_code`."""
    if not path.is_file():
        raise ModelFaultError(
            "no_config",
            f"There is no {path.name} in {path.parent}.",
            "Give a folder or repository in the layout of save_pretrained: config.json, tokenizer.json, *.safetensors.",
        )
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelFaultError("bad_config", f"{path.name} is not JSON: {error}.", _AGAIN) from error
    if not isinstance(config, dict):
        raise ModelFaultError("bad_config", f"{path.name} is not a JSON object.", _AGAIN)
    if config.get("auto_map"):
        raise ModelFaultError(
            "remote_code",
            f"{path.name} names Python code of its own (auto_map), and code from a model is never run here.",
            "Take a variant of the model that transformers supports without trust_remote_code.",
        )
    return config


def refuse_pickles(folder: Path) -> None:
    """Raises ModelFaultError `pickled_weights` when a file below `folder` could run code as it is opened."""
    pickles = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in PICKLE_SUFFIXES)
    if pickles:
        raise ModelFaultError(
            "pickled_weights",
            f"{pickles[0]} may run code when it is opened; a model here consists of safetensors, JSON and text alone.",
            "Save the model again with safe_serialization (save_pretrained does so) and leave such files out.",
        )


def refuse_remote_code(folder: Path) -> None:
    """Raises ModelFaultError `remote_code` when a config of the folder names Python code of its own."""
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"):
        if (folder / name).is_file():
            read_config(folder / name)


def chat_template_of(folder: Path) -> str | None:
    """The model's chat template as transformers would take it: `chat_template.jinja`, else the tokenizer's config."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    template = read_config(path).get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _sha256_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _weights_of(folder: Path) -> tuple[int, str | None]:
    """The number of weights in all safetensors files and the type that most of them have."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelFaultError(
            "no_safetensors",
            f"There are no safetensors files in {folder.name}.",
            "Take a repository or export that has *.safetensors; pickled weights are not read.",
        )
    _check_index(folder, {file.name for file in files})
    counts: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="numpy") as weights:
                for key in weights.keys():  # noqa: SIM118 - not a mapping
                    tensor = weights.get_slice(key)
                    counts[tensor.get_dtype()] += prod(tensor.get_shape())
        except (SafetensorError, OSError) as error:
            raise ModelFaultError(
                "broken_weights", f"{file.name} does not open as safetensors: {error}.", _AGAIN
            ) from error
    most = counts.most_common(1)
    return counts.total(), _DTYPES.get(most[0][0], most[0][0].lower()) if most else None


def _check_index(folder: Path, present: set[str]) -> None:
    """Raises ModelFaultError `missing_weights` when the index of a sharded model names a file that isn't there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    weight_map = read_config(index).get("weight_map") or {}
    missing = sorted(set(weight_map.values()) - present)
    if missing:
        raise ModelFaultError(
            "missing_weights",
            f"{index.name} names {missing[0]}, which is not there ({len(missing)} files missing).",
            "Fetch or copy the model again, all shards of it.",
        )
