"""What is trained: base, method, numbers, adapters: the section `model`. Runs in every process."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Model:
    """The model, and which of its weights are trained."""

    model: Annotated[str, about("The id of the model to start from.")] = ""
    chain: Annotated[
        str,
        about(
            "Continues the chain of this name: the run starts from the chain's current model when its turn comes, and "
            "its own model becomes the current one. A new name begins a chain at the model chosen. Empty: none.",
            title="Continue the chain",
        ),
    ] = ""
    method: Annotated[
        Literal["lora", "full"],
        about("lora trains a small adapter and needs little memory; full trains every weight."),
    ] = "lora"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        about(
            "The number format in which weights that are not trained are held. auto: the model's own on a GPU, "
            "float32 on a processor.",
            title="Weight format",
            advanced=True,
        ),
    ] = "auto"
    load_in_8bit: Annotated[
        bool,
        about(
            "Holds the base in 8 bits a weight (LoRA only; needs the extra `quant`; slow on a processor).",
            title="8 bits a weight",
            advanced=True,
        ),
    ] = False
    load_in_4bit: Annotated[
        bool,
        about(
            "Holds the base in 4 bits a weight (LoRA only; needs the extra `quant`; slow on a processor).",
            title="4 bits a weight",
            advanced=True,
        ),
    ] = False
    device_map: Annotated[
        Literal["auto", "balanced", "sequential"],
        about("How a model too large for one GPU is laid over several in one process.", advanced=True),
    ] = "auto"
    attn_implementation: Annotated[
        Literal["sdpa", "eager", "flash_attention_2"],
        about("Which code computes attention. flash_attention_2 needs its package and a GPU.", advanced=True),
    ] = "sdpa"
    gradient_checkpointing: Annotated[
        bool, about("Computes activations twice to keep fewer: much less memory, about a third slower.")
    ] = False
    lora_r: Annotated[int, about("The rank of the adapter: more can learn more.", title="LoRA rank", ge=1, le=4096)] = (
        16
    )
    lora_alpha: Annotated[
        int,
        about(
            "Scales what the adapter adds (by alpha / rank). Twice the rank is usual.",
            title="LoRA alpha",
            ge=1,
            le=65_536,
        ),
    ] = 32
    lora_dropout: Annotated[
        float,
        about("The share of adapter inputs dropped in training.", title="LoRA dropout", advanced=True, ge=0, lt=1),
    ] = 0.0
    lora_target_modules: Annotated[
        str,
        about(
            "Which layers get an adapter: all-linear, or names with commas between, such as q_proj,v_proj.",
            title="LoRA layers",
            advanced=True,
        ),
    ] = "all-linear"
