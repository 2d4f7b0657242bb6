"""In which number format a run computes, by what was asked for and what the hardware can. Runs in the training process.

Weights that are trained stay fp32 in every case: AdamW on bf16 weights learns far slower.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from monitoring.attempt import JobFaultError
from training.config.schema import TrainerConfig

Mode = Literal["bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class Precision:
    """The format of the computation, and why it was chosen (half a sentence)."""

    mode: Mode
    reason: str


def choose_precision(config: TrainerConfig) -> Precision:
    """Raises JobFaultError `config_invalid` for a format that the hardware lacks."""
    asked = config.hyperparams.precision
    if torch.cuda.is_available():
        return _on_gpu(asked)
    return _on_processor(asked)


def frozen_dtype(config: TrainerConfig, on_disk: torch.dtype) -> torch.dtype:
    """The format of weights that are not trained. `on_disk` is the model's own."""
    asked = config.model.dtype
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    return on_disk if torch.cuda.is_available() else torch.float32


def computes_bf16(capabilities: Mapping[str, object]) -> bool:
    """Whether a processor multiplies bf16 itself: without such instructions it is slower than fp32."""
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16"))


def _on_gpu(asked: str) -> Precision:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    name = torch.cuda.get_device_name()
    if asked == "auto":
        return Precision("bf16", f"{name} computes in it") if native else Precision("fp16", f"{name} has no bf16")
    if asked == "bf16" and not native:
        raise JobFaultError(
            "config_invalid",
            f"hyperparams.precision is bf16, which {name} doesn't compute in.",
            "Set hyperparams.precision to fp16, or to auto.",
        )
    return _as_asked(asked)


def _on_processor(asked: str) -> Precision:
    if asked == "fp16":
        raise JobFaultError(
            "config_invalid",
            "hyperparams.precision is fp16, which needs a GPU, and this host gave the run none.",
            "Set hyperparams.precision to auto, bf16 or fp32.",
        )
    if asked == "auto":
        if computes_bf16(torch.cpu.get_capabilities()):
            return Precision("bf16", "the processor computes in it")
        return Precision("fp32", "there is no GPU and the processor has no bf16 instructions")
    return _as_asked(asked)


def _as_asked(asked: str) -> Precision:
    modes: dict[str, Mode] = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
    return Precision(modes[asked], "hyperparams.precision asks for it")
