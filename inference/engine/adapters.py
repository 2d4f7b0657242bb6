"""LoRA adapters beside their base: one copy of its weights, and for every row of a batch the adapter it asks for.

Runs in the inference process. peft computes a batch of several adapters in one pass; which row belongs to which is
told here, once for all layers, by hooks that stay (peft itself would set and remove one per layer at every step).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.engine.base import BASE_MODEL
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact
from monitoring.files import FACTS_FILE, model_hashes

ADAPTER_FILE = "adapter_config.json"
PEFT_BASE = "__base__"
UNMIXABLE = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")
"""Settings of adapters that peft can't compute in one batch with others."""


class AdapterRows:
    """Tells the layers under which adapter each row of the next pass is computed. Without any, all are the base's."""

    def __init__(self, model: Any = None, names: Sequence[str] = ()) -> None:
        self._keys = {name: _key(number) for number, name in enumerate(names)}
        self._rows: list[str] = []
        if names:
            from peft.tuners.lora import LoraLayer

            for module in model.modules():
                if isinstance(module, LoraLayer):
                    module.register_forward_pre_hook(self._tell, with_kwargs=True)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that there are."""
        return tuple(self._keys)

    def set(self, names: Sequence[str]) -> None:
        """The next pass has one row for each name; BASE_MODEL is the base itself."""
        self._rows = [PEFT_BASE if name == BASE_MODEL else self._keys[name] for name in names] if self._keys else []

    def _tell(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        return args, {**kwargs, "adapter_names": self._rows or [PEFT_BASE] * len(args[0])}


def add_adapters(model: Any, base: Artefact, adapters: Sequence[Artefact]) -> tuple[Any, AdapterRows]:
    """The model with adapters in its layers; their ids are the names they are asked for by.

    Raises JobFaultError where a folder is no adapter of this base or can't be computed beside others.
    """
    if not adapters:
        return model, AdapterRows()
    for adapter in adapters:
        _check(adapter, base)
    from peft import PeftModel  # takes two seconds to import, and most engines have no adapters

    mixed: Any = None
    for number, adapter in enumerate(adapters):
        options = {"adapter_name": _key(number), "autocast_adapter_dtype": False}
        try:
            if mixed is None:
                mixed = PeftModel.from_pretrained(model, adapter.path, **options)
            else:
                mixed.load_adapter(adapter.path, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _unreadable(adapter, error) from error
    plain = mixed.get_base_model()
    refuse_experts(plain, adapters)
    return plain, AdapterRows(plain, [adapter.id for adapter in adapters])


def _key(number: int) -> str:
    """peft's name of an adapter: it becomes part of module names, where a dot would be taken for a level."""
    return f"adapter_{number}"


def refuse_experts(model: Any, adapters: Sequence[Artefact]) -> None:
    """The tokens of all rows meet in an expert in an order of its own: there, nobody knows whose adapter is whose."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and "experts" in name.split("."):
            at_fault = next((i for i in range(len(adapters)) if _key(i) in module.lora_A), 0)
            raise _unmixable(adapters[at_fault], "LoRA on experts")


def _unmixable(adapter: Artefact, reason: str) -> JobFaultError:
    return JobFaultError(
        "adapter_unmixable",
        f"The adapter {adapter.id} can't be served beside others ({reason}).",
        "Activate it as a model of its own.",
    )


def _check(adapter: Artefact, base: Artefact) -> None:
    folder = Path(adapter.path)
    if not (folder / ADAPTER_FILE).is_file():
        raise JobFaultError(
            "adapter_missing", f"The folder {folder} of {adapter.id} holds no adapter.", "Register the adapter again."
        )
    settings = _read(folder / ADAPTER_FILE, adapter)
    lacking = [name for name in UNMIXABLE if settings.get(name)]
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or lacking:
        reason = ", ".join(lacking) or f"{settings.get('peft_type')}, bias {settings.get('bias')}"
        raise _unmixable(adapter, reason)
    facts_path = folder / FACTS_FILE
    of = (_read(facts_path, adapter) if facts_path.is_file() else {}).get("base")
    wanted = of.get("sha256") if isinstance(of, dict) else None
    if wanted and wanted != _sha256_of(base):
        raise JobFaultError(
            "adapter_of_other_base",
            f"The adapter {adapter.id} was trained on another base than {base.id}: their hashes differ.",
            "Serve it beside the base that it was trained on, or train it again on this one.",
        )


def _read(path: Path, adapter: Artefact) -> dict[str, Any]:
    """A JSON object of an adapter's folder."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(adapter, f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise _unreadable(adapter, f"{path.name} holds no JSON object")
    return value


def _unreadable(adapter: Artefact, reason: object) -> JobFaultError:
    return JobFaultError(
        "adapter_unreadable", f"The adapter {adapter.id} can't be loaded: {reason}", "Register it again."
    )


def _sha256_of(base: Artefact) -> str:
    """One hash for a whole model, as a training run writes it beside its adapter. The registry's note spares reading
    gigabytes."""
    if base.sha256:
        return base.sha256
    facts = Path(base.path) / FACTS_FILE
    hashes = json.loads(facts.read_text()).get("hashes") if facts.is_file() else None
    if hashes is None:
        hashes = model_hashes(Path(base.path))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
