"""How the weights are changed: the section `hyperparams`. Runs in every process."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Hyperparams:
    """How the weights are changed: schedule, batch, optimizer, precision."""

    num_train_epochs: Annotated[
        float,
        about(
            "How often the whole training set is gone through. More learns the data by heart; small sets need 2 to 5.",
            title="Epochs",
            unit="epochs",
            gt=0,
            le=1000,
        ),
    ] = 1.0
    max_steps: Annotated[
        int,
        about(
            "Ends the run after this many optimizer steps, whatever the epochs say. -1: the epochs decide.",
            unit="steps",
            ge=-1,
            le=100_000_000,
        ),
    ] = -1
    per_device_train_batch_size: Annotated[
        int,
        about(
            "Examples that are computed at once on each device. Larger is faster and needs more memory.",
            title="Batch size per device",
            unit="examples",
            ge=1,
            le=4096,
        ),
    ] = 8
    gradient_accumulation_steps: Annotated[
        int,
        about(
            "Batches whose gradients are added up before each step. Raise it for a larger effective batch "
            "without more memory.",
            unit="batches",
            advanced=True,
            ge=1,
            le=4096,
        ),
    ] = 1
    learning_rate: Annotated[
        float,
        about(
            "How far each step moves the weights, at its peak. 2e-4 suits LoRA, 1e-5 to 5e-5 a full fine-tune. "
            "Lower it when the loss jumps or becomes NaN.",
            gt=0,
            le=1,
        ),
    ] = 2e-4
    weight_decay: Annotated[
        float, about("Pulls weights towards zero at each step. 0 to 0.1 is usual.", advanced=True, ge=0, le=1)
    ] = 0.0
    warmup_ratio: Annotated[
        float,
        about(
            "The share of all steps in which the learning rate rises from zero to its peak.",
            title="Warm-up share",
            advanced=True,
            ge=0,
            le=1,
        ),
    ] = 0.03
    lr_scheduler_type: Annotated[
        Literal["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial"],
        about("How the learning rate goes on after the warm-up.", title="Learning rate schedule"),
    ] = "cosine"
    max_grad_norm: Annotated[
        float,
        about(
            "Gradients longer than this are shortened to it, so that one bad batch does no harm. 0: never.",
            title="Gradient clipping",
            advanced=True,
            ge=0,
            le=1_000_000,
        ),
    ] = 1.0
    optim: Annotated[
        Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adamw_bnb_8bit", "paged_adamw_8bit"],
        about(
            "The optimizer. adafactor and the 8-bit ones (extra `quant`) need less memory than AdamW.",
            title="Optimizer",
            advanced=True,
        ),
    ] = "adamw_torch"
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        about(
            "The number format of the computation; weights that are trained stay fp32. auto takes bf16 where the "
            "hardware computes in it, fp16 on older GPUs, fp32 on other processors.",
        ),
    ] = "auto"
    max_length: Annotated[
        int,
        about(
            "Longer examples are cut off here. Memory grows with it. A continued model keeps its parent's.",
            title="Longest example",
            unit="tokens",
            locked=True,
            ge=8,
            le=1_048_576,
        ),
    ] = 1024
    seed: Annotated[
        int,
        about(
            "Decides the order of the data, the evaluation split and the start of new weights. "
            "The same seed gives the same run.",
            advanced=True,
            ge=0,
            le=2**32 - 1,
        ),
    ] = 42
    early_stopping_patience: Annotated[
        int,
        about(
            "Ends the run after this many evaluations without a better loss and publishes the best state. 0: off.",
            title="Early stopping after",
            unit="evaluations",
            advanced=True,
            ge=0,
            le=10_000,
        ),
    ] = 0
    early_stopping_threshold: Annotated[
        float,
        about(
            "By how much the evaluation loss must fall to count as better, for early stopping.",
            advanced=True,
            ge=0,
            le=1_000,
        ),
    ] = 0.0
