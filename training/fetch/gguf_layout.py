"""What a GGUF file says of a model beside its weights: sizes, rotary positions, and where each tensor stands in it.

Runs in the `fetch` job, over the `gguf` library's tables. Three families are known: Llama (SmolLM2 among it), Qwen2 and
Qwen3. llama.cpp keeps the rows of a Llama's queries and keys in the order of the original release; the Qwen families
are taken as they are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from monitoring.attempt import JobFaultError

Array = npt.NDArray[Any]

FAMILIES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
ROPE_FREQUENCIES = "rope_freqs.weight"
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
POSITIONS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
    "llama3": frozenset({"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
}
"""The kinds of rotary positions, and which of their settings have a place in the file."""

BY_THEMSELVES = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "partial_rotary_factor": 1}
"""What llama.cpp takes where the file says nothing."""

IGNORED_ENDS = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True)
class Layout:
    """A model's configuration, as transformers reads it, and the family that it belongs to."""

    config: Any
    family: Any

    @classmethod
    def of(cls, config: Any) -> "Layout":
        """Raises JobFaultError `export_unsupported` for a model that is none of the families, or not quite."""
        architecture = next(iter(config.architectures or []), "none")
        if architecture not in FAMILIES:
            raise _unsupported(f"its architecture is {architecture}; known are {', '.join(FAMILIES)}")
        layers = set(getattr(config, "layer_types", None) or ())
        if getattr(config, "use_sliding_window", False) or layers - {"full_attention"}:
            raise _unsupported("it has layers that see a part of the text only")
        _check_positions(_rope(config), architecture)
        return cls(config, FAMILIES[architecture])

    @property
    def head_size(self) -> int:
        """The width of one head."""
        config = self.config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    def describe(self, writer: Any) -> None:
        """Writes the sizes and the rotary positions."""
        config, rope = self.config, _rope(self.config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(self.head_size)
        writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
        kind = rope.get("rope_type", "default")
        if kind in ("linear", "yarn"):
            linear, yarn = gguf.RopeScalingType.LINEAR, gguf.RopeScalingType.YARN
            writer.add_rope_scaling_type(linear if kind == "linear" else yarn)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        if kind == "yarn":
            original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            writer.add_rope_scaling_orig_ctx_len(int(original))

    def names(self, given: list[str]) -> Iterator[tuple[str, str]]:
        """The tensors of the model and what each is called in the file. Raises JobFaultError for one that has no place
        there: leaving it out would be another model."""
        table = gguf.get_tensor_name_map(self.family, self.config.num_hidden_layers)
        for name in given:
            if name.endswith(IGNORED_ENDS):
                continue
            written = table.get_name(name, try_suffixes=(".weight", ".bias"))
            if written is None:
                raise _unsupported(f"there is no place in the file for its tensor {name}")
            yield name, written

    def arranged(self, name: str, tensor: Array) -> Array:
        """A tensor as the family has it."""
        if self.family != gguf.MODEL_ARCH.LLAMA:
            return tensor
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}
        count = next((heads[part] for part in name.split(".") if part in heads), None)
        if count is None:
            return tensor
        halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)

    def rope_frequencies(self) -> Array | None:
        """By what each rotary frequency is divided where Llama 3's rule stretches them, else None."""
        rope = _rope(self.config)
        if rope.get("rope_type") != "llama3":
            return None
        base, factor = float(rope["rope_theta"]), float(rope["factor"])
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        original = float(rope["original_max_position_embeddings"])
        turns = original * base ** -(np.arange(0, self.head_size, 2) / self.head_size) / (2 * math.pi)
        smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
        divisors: Array = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
        return divisors


def _rope(config: Any) -> dict[str, Any]:
    """The settings of the rotary positions: transformers 5 has them in one place, whatever the file said."""
    return dict(getattr(config, "rope_parameters", None) or {})


def _check_positions(rope: dict[str, Any], architecture: str) -> None:
    """Raises JobFaultError where llama.cpp would turn queries and keys otherwise."""
    kind = rope.get("rope_type", "default")
    if kind not in POSITIONS:
        raise _unsupported(f"its positions are of the kind {kind}")
    if kind == "llama3" and architecture != "LlamaForCausalLM":
        raise _unsupported("its positions are of the kind llama3, which llama.cpp knows of Llama alone")
    without_place = rope.keys() - POSITIONS[kind] - {"rope_type", "type", "rope_theta"}
    lost = sorted(name for name in without_place if rope[name] not in (None, BY_THEMSELVES.get(name)))
    if lost:
        raise _unsupported(f"there is no place in the file for what its positions are set to ({', '.join(lost)})")


def _unsupported(reason: str) -> JobFaultError:
    return JobFaultError(
        "export_unsupported",
        f"The model can't be exported to GGUF: {reason}.",
        "Export a model of the Llama, Qwen2 or Qwen3 family.",
    )
