"""Weights and optimizer of a model that FSDP has divided over several processes, whole again: for checkpoints and the
finished model.

Runs in the training process. Each function but `own_part` is called by all ranks; what it gives is whole on the first
one alone, on the processor. A checkpoint's weights are the same files whether one process trained or several.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
ADAPTER_NAME = "default"


def own_part(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight: all of it where it isn't divided."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def whole_weights(model: Any) -> dict[str, Any]:
    """Every weight by its name."""
    return dict(get_model_state_dict(model, options=WHOLE))


def whole_optimizer(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by the names of the weights."""
    return dict(get_optimizer_state_dict(model, optimizer, options=WHOLE))


def take_weights(model: Any, folder: Path) -> None:
    """Reads a checkpoint's weights, of the whole model or of its adapter, and takes each rank's part of them."""
    weights: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    if (folder / "adapter_config.json").is_file():
        weights = {_named(name): weight for name, weight in weights.items()}
    set_model_state_dict(model, weights, options=WHOLE)


def take_optimizer(model: Any, optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Reads an optimizer's state that `whole_optimizer` gave, and takes each rank's part of it."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(model, optimizer, state, options=WHOLE)


def _named(name: str) -> str:
    """The name in a model with an adapter of a weight in the adapter's file, which leaves the adapter's name out."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.{ADAPTER_NAME}.{last}"
