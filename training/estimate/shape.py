"""What of a model decides how much memory its training takes, read from its folder without torch.

Runs in the web process and in benchmarks. `config.json` gives the sizes of a layer, the headers of the safetensors
files the number of weights; no weight is read.
"""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

HEADER_LIMIT_BYTES = 100_000_000
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


class UnknownShapeError(Exception):
    """The folder doesn't say how large its layers are; the text says what is missing."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder. `linear_parameters` are those of the layers' matrices, which quantization shrinks."""

    parameters: int
    layers: int
    hidden: int
    query_width: int
    key_width: int
    intermediate: int
    heads: int
    vocabulary: int
    dtype_bytes: int
    tied: bool = True
    mlp_matrices: int = 3
    experts_used: int = 1
    normalizes_heads: bool = False

    @property
    def linear_parameters(self) -> int:
        """The weights of attention and MLP matrices in all layers."""
        return max(0, self.parameters - self.embedding_parameters)

    @property
    def embedding_parameters(self) -> int:
        """The weights of the embedding and, where it is not the same matrix, of the output."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a folder. Raises UnknownShapeError."""
    config = _config(folder)
    nested = config.get("text_config")
    inner: dict[str, Any] = nested if isinstance(nested, dict) else config
    parameters = count_parameters(folder)
    hidden = _size(inner, "hidden_size", "n_embd", "d_model")
    heads = _size(inner, "num_attention_heads", "n_head", "num_heads")
    head_dim = int(inner.get("head_dim") or hidden // heads)
    layers = _size(inner, "num_hidden_layers", "n_layer", "num_layers")
    experts = int(inner.get("num_experts_per_tok") or 1)
    width = inner.get("moe_intermediate_size") if experts > 1 else None
    intermediate = int(width or inner.get("intermediate_size") or inner.get("n_inner") or 4 * hidden)
    named = inner.get("dtype") or inner.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    return ModelShape(
        parameters=parameters,
        layers=layers,
        hidden=hidden,
        query_width=heads * head_dim,
        key_width=int(inner.get("num_key_value_heads") or heads) * head_dim,
        intermediate=intermediate,
        heads=heads,
        vocabulary=_size(inner, "vocab_size"),
        dtype_bytes=_BYTES.get(str(named), 4),
        tied=bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", True))),
        mlp_matrices=2 if str(inner.get("model_type")) in UNGATED else 3,
        experts_used=experts,
        normalizes_heads=str(inner.get("model_type", "")).startswith(("qwen3", "gemma3", "olmo2")),
    )


UNGATED = frozenset({"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "phi", "bloom", "falcon", "starcoder2"})
"""Architectures whose MLP has two matrices; the others have a gate beside them."""


def count_parameters(folder: Path) -> int:
    """The number of weights in a folder's safetensors files, by their headers. Raises UnknownShapeError."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UnknownShapeError(f"There are no safetensors files in {folder.name}.")
    return sum(_count(path) for path in files)


def _count(path: Path) -> int:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > HEADER_LIMIT_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UnknownShapeError(f"The header of {path.name} can't be read: {error}.") from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UnknownShapeError(f"config.json of the model can't be read: {error}.") from error
    if not isinstance(config, dict):
        raise UnknownShapeError("config.json of the model is not a JSON object.")
    return config


def _size(config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    raise UnknownShapeError(f"config.json of the model has no {names[0]}.")
