"""How many bytes a run holds at its peak, reckoned from the shape of its model and its settings.

Runs in the web process and in benchmarks; knows no torch. What a layer keeps for the backward pass was read off
transformers' decoder layers (each tensor that autograd saves), and checked by `python -m bench.estimate` against the
peaks of real runs on a processor. The figures of the GPU's own (`CUDA_CONTEXT_BYTES`) are assumptions, and said so.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from training.config.schema import TrainerConfig
from training.estimate.shape import ModelShape

Format = Literal["bf16", "fp16", "fp32"]
Device = Literal["cuda", "cpu"]

FP32 = 4
ADAM_BYTES = 8.0
"""Two fp32 moments a trained weight."""
OPTIMIZER_BYTES = {
    "adamw_torch": ADAM_BYTES, "adamw_torch_fused": ADAM_BYTES, "adafactor": 0.1, "sgd": 0.0,
    "adamw_bnb_8bit": 2.0, "paged_adamw_8bit": 2.0,
}  # fmt: skip
STEP_BYTES = {"adamw_torch": 4.0}
"""What the step itself takes beside its state, a trained weight: on a GPU PyTorch works on all tensors at once."""
NF4_BYTES = 0.5 + 4 / 64
INT8_BYTES = 1.0 + 0.01
CPU_PROCESS_BYTES = 420_000_000
"""Measured: Python with torch, transformers and the trainer loaded, before there is a model."""
CPU_SLACK = {"lora": 0.8, "full": 0.3}
"""Fitted to runs on a processor: so much of what the layers compute lies in the C library's allocator as holes between
short-lived pieces, checkpointed or not (for an adapter, with MALLOC_MMAP_THRESHOLD_=262144, it is 0). The share varies
with the sizes of the pieces, for whole models from 0.15 to 0.5, and is where most of the estimate's error lies."""
CUDA_CONTEXT_BYTES = 900_000_000
"""Assumed, not measured here: context, kernels and cuBLAS's workspace on the card."""


@dataclass(frozen=True)
class Place:
    """Where a run computes: its device, the format that `precision: auto` means there, and over how many GPUs."""

    device: Device
    auto_format: Format
    gpus: int = 1


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a device at the peak. `batch` examples of `tokens` tokens are the longest batch."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int
    peak: int
    batch: int
    tokens: int

    def to_json(self) -> dict[str, int]:
        """As plain figures."""
        return asdict(self)


def estimate_memory(shape: ModelShape, config: TrainerConfig, longest_tokens: int, place: Place) -> MemoryEstimate:
    """What a run holds at its peak, a device, when its longest example has `longest_tokens` tokens."""
    batch, tokens = config.hyperparams.per_device_train_batch_size, _width(longest_tokens, config, place)
    formats = _Formats.of(shape, config, place)
    trained = trained_parameters(shape, config)
    sharing = place.gpus if _shares_weights(config) else 1
    weights = round(_weight_bytes(shape, config, formats, trained) / sharing)
    gradients = round(FP32 * trained / sharing)
    optimizer = round(OPTIMIZER_BYTES[config.hyperparams.optim] * trained / sharing)
    kept, transient = _activations(shape, config, formats, tokens)
    kept, transient = round(kept * batch * tokens), round(transient * batch * tokens)
    if config.environment.distributed == "none":
        kept = round(kept / place.gpus)
    logits = round(_logit_bytes(formats) * shape.vocabulary * batch * tokens)
    casts = round(_cast_bytes(shape, config, formats) / sharing)
    if config.hyperparams.gradient_accumulation_steps > 1:
        held = gradients
    else:  # the output's gradient is the first, and comes while everything is still held
        held = FP32 * shape.vocabulary * shape.hidden if config.model.method == "full" else 0
    layer = round(_layer_bytes(shape, config, formats, tokens) * batch * tokens)
    in_backward = max(kept + casts + max(logits, transient) + held, gradients + layer)  # as it begins, and as it ends
    per_weight = STEP_BYTES.get(config.hyperparams.optim, 0.0) if place.device == "cuda" else 0.0
    in_step = gradients + round(per_weight * trained / sharing)
    overhead = CUDA_CONTEXT_BYTES if place.device == "cuda" else CPU_PROCESS_BYTES
    if place.device == "cpu":
        overhead += round(CPU_SLACK[config.model.method] * shape.layers * layer)
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=kept + casts + (transient if transient > logits else 0),
        logits=logits,
        overhead=overhead,
        peak=weights + optimizer + max(in_backward, in_step) + overhead,
        batch=batch,
        tokens=tokens,
    )


def trained_parameters(shape: ModelShape, config: TrainerConfig) -> int:
    """How many weights the run changes."""
    if config.model.method == "full":
        return shape.parameters
    wide, h, f = shape.intermediate, shape.hidden, shape.query_width
    sums = {
        "q_proj": h + f, "k_proj": h + shape.key_width, "v_proj": h + shape.key_width, "o_proj": f + h,
        "gate_proj": h + wide, "up_proj": h + wide, "down_proj": wide + h,
    }  # fmt: skip
    targets = config.model.lora_target_modules.strip()
    named = {part.strip() for part in targets.split(",")}
    chosen = [size for name, size in sums.items() if targets == "all-linear" or name in named]
    if shape.mlp_matrices == 2 and targets == "all-linear":
        chosen.remove(h + wide)
    return config.model.lora_r * shape.layers * sum(chosen)


@dataclass(frozen=True)
class _Formats:
    """Bytes a number of what is computed (`compute`) and of what runs from layer to layer (`stream`)."""

    compute: int
    stream: int
    frozen: int

    @classmethod
    def of(cls, shape: ModelShape, config: TrainerConfig, place: Place) -> "_Formats":
        asked = config.hyperparams.precision
        compute = FP32 if (place.auto_format if asked == "auto" else asked) == "fp32" else 2
        if config.model.method == "full":
            frozen = FP32
        elif config.model.dtype == "auto":
            frozen = shape.dtype_bytes if place.device == "cuda" else FP32
        else:
            frozen = FP32 if config.model.dtype == "float32" else 2
        return cls(compute, frozen, frozen)


def _weight_bytes(shape: ModelShape, config: TrainerConfig, formats: _Formats, trained: int) -> float:
    if config.model.method == "full":
        return FP32 * shape.parameters
    adapter = FP32 * trained
    rest = shape.embedding_parameters * formats.frozen
    if config.model.load_in_4bit:
        return shape.linear_parameters * NF4_BYTES + rest + adapter
    if config.model.load_in_8bit:
        return shape.linear_parameters * INT8_BYTES + rest + adapter
    return shape.parameters * formats.frozen + adapter


def _cast_bytes(shape: ModelShape, config: TrainerConfig, formats: _Formats) -> float:
    """Mixed precision keeps a copy of each fp32 matrix in the format of the computation until the backward pass."""
    if formats.compute >= formats.frozen or config.model.load_in_8bit or config.model.load_in_4bit:
        return 0.0
    matrices = shape.linear_parameters + shape.vocabulary * shape.hidden
    return float(formats.compute * matrices)


def _activations(shape: ModelShape, config: TrainerConfig, formats: _Formats, tokens: int) -> tuple[float, float]:
    """Bytes a token: what is kept until the backward pass, and what one layer needs anew in it."""
    layer = _layer_bytes(shape, config, formats, tokens)
    ends = shape.hidden * (2 * FP32 + formats.compute)
    if config.model.gradient_checkpointing:
        return shape.layers * formats.stream * shape.hidden + ends, layer
    return shape.layers * layer + ends, 0.0


def _layer_bytes(shape: ModelShape, config: TrainerConfig, formats: _Formats, tokens: int) -> float:
    """What autograd saves in one decoder layer, a token; counted with saved_tensors_hooks on Llama and Qwen3."""
    is_full = config.model.method == "full"
    h, q, f = shape.hidden, shape.query_width, shape.intermediate * shape.experts_used
    compute, mixed = formats.compute, formats.compute < FP32
    norms = 2 * h * (FP32 + (formats.stream if is_full else 0))
    # Mixed precision makes a copy of the input for each matrix; one format shares it.
    inputs = h * compute * ((3 + shape.mlp_matrices - 1) if mixed else 2)
    if shape.normalizes_heads:
        norms += (q + shape.key_width) * (FP32 + (formats.stream if is_full else 0))
    # Queries, keys and values (repeated for each head), and what comes out; an adapter there casts its input anew.
    attention = 4 * q * compute + (q * compute if mixed and not is_full else 0)
    if config.model.attn_implementation == "eager":
        attention += shape.heads * tokens * (FP32 + (compute if mixed else 0))
    elif config.model.attn_implementation == "sdpa":
        attention += tokens * compute + shape.heads * FP32  # the mask, made anew in each layer, and the row sums
    mlp = (4 if shape.mlp_matrices == 3 else 2) * f * compute
    adapters = 0 if is_full else config.model.lora_r * compute * (4 + shape.mlp_matrices)
    return norms + inputs + attention + mlp + adapters


def _logit_bytes(formats: _Formats) -> float:
    """A logit, at the moment of the loss: as computed, in fp32, and the logarithm of the softmax with its gradient."""
    return (formats.compute if formats.compute < FP32 else 0) + 3 * FP32


def _width(longest_tokens: int, config: TrainerConfig, place: Place) -> int:
    """The tokens of a row of the longest batch; GPUs pad to a multiple of 8."""
    longest = max(1, min(longest_tokens, config.hyperparams.max_length))
    return -(-longest // 8) * 8 if place.device == "cuda" and not config.data.packing else longest


def _shares_weights(config: TrainerConfig) -> bool:
    """Whether several GPUs hold parts of the model rather than copies of it."""
    return config.environment.distributed in ("none", "fsdp")
