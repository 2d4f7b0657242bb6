"""What a training run can be told: eight sections of settings and `TrainerConfig`, which holds them.

Runs in every process; imports neither torch nor transformers. The web form, the API schema and `python -m training
config` are generated from these fields (`training.config.fields`), so each one carries its range, its unit and a
description in plain words. Names are transformers' own where it has them. Values are strict: a text is not a number.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

SETTINGS = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _about(
    description: str,
    *,
    title: str = "",
    unit: str = "",
    locked: bool = False,
    advanced: bool = False,
    **limits: Any,
) -> Any:
    """A field's description, range and what a form needs beside them."""
    extra: dict[str, Any] = {"unit": unit, "locked": locked, "advanced": advanced}
    return Field(title=title or None, description=description, json_schema_extra=extra, **limits)


@dataclass(frozen=True, config=SETTINGS)
class Hyperparams:
    """How the weights are changed: schedule, batch, optimizer, precision."""

    num_train_epochs: Annotated[
        float,
        _about(
            "How often the whole training set is gone through. More learns the data by heart; small sets need 2 to 5.",
            title="Epochs",
            unit="epochs",
            gt=0,
            le=1000,
        ),
    ] = 1.0
    max_steps: Annotated[
        int,
        _about(
            "Ends the run after this many optimizer steps, whatever the epochs say. -1: the epochs decide.",
            unit="steps",
            ge=-1,
            le=100_000_000,
        ),
    ] = -1
    per_device_train_batch_size: Annotated[
        int,
        _about(
            "Examples that are computed at once on each device. Larger is faster and needs more memory.",
            title="Batch size per device",
            unit="examples",
            ge=1,
            le=4096,
        ),
    ] = 8
    gradient_accumulation_steps: Annotated[
        int,
        _about(
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
        _about(
            "How far each step moves the weights, at its peak. 2e-4 suits LoRA, 1e-5 to 5e-5 a full fine-tune. "
            "Lower it when the loss jumps or becomes NaN.",
            gt=0,
            le=1,
        ),
    ] = 2e-4
    weight_decay: Annotated[
        float, _about("Pulls weights towards zero at each step. 0 to 0.1 is usual.", advanced=True, ge=0, le=1)
    ] = 0.0
    warmup_ratio: Annotated[
        float,
        _about(
            "The share of all steps in which the learning rate rises from zero to its peak.",
            title="Warm-up share",
            advanced=True,
            ge=0,
            le=1,
        ),
    ] = 0.03
    lr_scheduler_type: Annotated[
        Literal["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial"],
        _about("How the learning rate goes on after the warm-up.", title="Learning rate schedule"),
    ] = "cosine"
    max_grad_norm: Annotated[
        float,
        _about(
            "Gradients longer than this are shortened to it, so that one bad batch does no harm. 0: never.",
            title="Gradient clipping",
            advanced=True,
            ge=0,
            le=1_000_000,
        ),
    ] = 1.0
    optim: Annotated[
        Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adamw_bnb_8bit", "paged_adamw_8bit"],
        _about(
            "The optimizer. adafactor and the 8-bit ones (extra `quant`) need less memory than AdamW.",
            title="Optimizer",
            advanced=True,
        ),
    ] = "adamw_torch"
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        _about(
            "The number format of the computation; weights that are trained stay fp32. auto takes bf16 where the "
            "hardware computes in it, fp16 on older GPUs, fp32 on other processors.",
        ),
    ] = "auto"
    max_length: Annotated[
        int,
        _about(
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
        _about(
            "Decides the order of the data, the evaluation split and the start of new weights. "
            "The same seed gives the same run.",
            advanced=True,
            ge=0,
            le=2**32 - 1,
        ),
    ] = 42
    early_stopping_patience: Annotated[
        int,
        _about(
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
        _about(
            "By how much the evaluation loss must fall to count as better, for early stopping.",
            advanced=True,
            ge=0,
            le=1_000,
        ),
    ] = 0.0


@dataclass(frozen=True, config=SETTINGS)
class Profile:
    """Which data profile shapes the examples before training."""

    name: Annotated[str, _about("The data profile: how each example is changed before it is trained on.")] = "plain"
    version: Annotated[
        str, _about("The version of the profile that is asked for. Empty: the installed one.", advanced=True)
    ] = ""
    system_prompt: Annotated[
        str, _about("Put before every conversation that has no system message. Empty: nothing is put there.")
    ] = ""
    options: Annotated[dict[str, Any], _about("Settings of the profile's own, as JSON.", advanced=True)] = Field(
        default_factory=dict
    )


@dataclass(frozen=True, config=SETTINGS)
class Monitoring:
    """What is measured during the run, and how often."""

    logging_steps: Annotated[
        int,
        _about("A point on the loss curve every so many steps.", title="Log every", unit="steps", ge=1, le=1_000_000),
    ] = 1
    eval_steps: Annotated[
        int,
        _about(
            "Evaluates every so many steps. 0: at the end of each epoch.",
            title="Evaluate every",
            unit="steps",
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    eval_samples: Annotated[
        int,
        _about(
            "At most so many examples are used in each evaluation. 0: all of the evaluation set.",
            unit="examples",
            advanced=True,
            ge=0,
            le=100_000_000,
        ),
    ] = 200
    sample_steps: Annotated[
        int,
        _about(
            "Lets the model answer the sample prompts every so many steps. 0: never.",
            title="Sample every",
            unit="steps",
            advanced=True,
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    sample_prompts: Annotated[
        tuple[str, ...], _about("What the model is asked for samples during the run.", advanced=True)
    ] = ()
    divergence_factor: Annotated[
        float,
        _about(
            "Ends the run when the smoothed loss stays above this many times its best, and above where it began. "
            "0: never.",
            title="Diverged above",
            unit="times the best loss",
            advanced=True,
            ge=0,
            le=1_000_000,
        ),
    ] = 3.0
    update_interval_seconds: Annotated[
        float,
        _about("The progress bar moves at most this often.", unit="seconds", advanced=True, ge=0, le=3600),
    ] = 0.25
    stuck_timeout_seconds: Annotated[
        float,
        _about(
            "A run without a step for this long is reported as stuck.", unit="seconds", advanced=True, gt=0, le=604_800
        ),
    ] = 900.0


@dataclass(frozen=True, config=SETTINGS)
class Locked:
    """What a continued model must share with its parent. Filled in from the model; nothing here is chosen."""

    base_model: Annotated[str, _about("The id of the model that the run starts from.", locked=True, advanced=True)] = ""
    model_architecture: Annotated[
        str, _about("The class of the model, such as Qwen3ForCausalLM.", locked=True, advanced=True)
    ] = ""
    tokenizer_sha256: Annotated[
        str, _about("The hash of the tokenizer's file.", title="Tokenizer SHA-256", locked=True, advanced=True)
    ] = ""
    chat_template_sha256: Annotated[
        str, _about("The hash of the chat template.", title="Chat template SHA-256", locked=True, advanced=True)
    ] = ""


@dataclass(frozen=True, config=SETTINGS)
class Data:
    """Which examples are trained on, which are held out for evaluation, and in which order."""

    train_dataset: Annotated[str, _about("The id of the dataset to train on.")] = ""
    eval_dataset: Annotated[
        str,
        _about("The id of a dataset to evaluate on. Empty: a share of the training set is held out.", advanced=True),
    ] = ""
    eval_fraction: Annotated[
        float,
        _about(
            "The share of the dataset that is held out for evaluation. 0: no evaluation.",
            title="Held out for evaluation",
            ge=0,
            le=0.5,
        ),
    ] = 0.05
    shuffle: Annotated[
        bool, _about("Takes the examples in another order in each epoch (by the seed).", advanced=True)
    ] = True
    length_grouping: Annotated[
        bool,
        _about("Puts examples of like length into one batch, so that less is computed for padding.", advanced=True),
    ] = True
    packing: Annotated[
        bool,
        _about(
            "Joins the examples of a batch into one row without padding; they stay apart by their positions. "
            "Faster on GPUs with flash attention when lengths differ much.",
            advanced=True,
        ),
    ] = False
    min_tokens: Annotated[
        int, _about("Shorter examples are left out.", unit="tokens", advanced=True, ge=1, le=1_048_576)
    ] = 1
    max_tokens: Annotated[
        int,
        _about(
            "Longer examples are left out. 0: none is; what exceeds the longest example is cut off.",
            unit="tokens",
            advanced=True,
            ge=0,
            le=1_048_576,
        ),
    ] = 0
    drop_duplicates: Annotated[bool, _about("Leaves out rows that are equal to an earlier one.", advanced=True)] = False
    max_examples: Annotated[
        int,
        _about(
            "Trains on at most so many examples, picked by the seed. 0: all.",
            unit="examples",
            advanced=True,
            ge=0,
            le=1_000_000_000,
        ),
    ] = 0
    workers: Annotated[
        int,
        _about(
            "Processes that prepare batches ahead. 0: the run does it itself; raise it when the GPU waits.",
            unit="processes",
            advanced=True,
            ge=0,
            le=64,
        ),
    ] = 0


@dataclass(frozen=True, config=SETTINGS)
class Model:
    """The model, and which of its weights are trained."""

    model: Annotated[str, _about("The id of the model to start from.")] = ""
    chain: Annotated[
        str,
        _about(
            "Continues the chain of this name: the run starts from the chain's current model when its turn comes, and "
            "its own model becomes the current one. A new name begins a chain at the model chosen. Empty: none.",
            title="Continue the chain",
        ),
    ] = ""
    method: Annotated[
        Literal["lora", "full"],
        _about("lora trains a small adapter and needs little memory; full trains every weight."),
    ] = "lora"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        _about(
            "The number format in which weights that are not trained are held. auto: the model's own on a GPU, "
            "float32 on a processor.",
            title="Weight format",
            advanced=True,
        ),
    ] = "auto"
    load_in_8bit: Annotated[
        bool, _about("Holds the base in 8 bits a weight (LoRA only; needs the extra `quant` and a GPU).", advanced=True)
    ] = False
    load_in_4bit: Annotated[
        bool, _about("Holds the base in 4 bits a weight (LoRA only; needs the extra `quant` and a GPU).", advanced=True)
    ] = False
    device_map: Annotated[
        Literal["auto", "balanced", "sequential"],
        _about("How a model too large for one GPU is laid over several in one process.", advanced=True),
    ] = "auto"
    attn_implementation: Annotated[
        Literal["sdpa", "eager", "flash_attention_2"],
        _about("Which code computes attention. flash_attention_2 needs its package and a GPU.", advanced=True),
    ] = "sdpa"
    gradient_checkpointing: Annotated[
        bool, _about("Computes activations twice to keep fewer: much less memory, about a third slower.")
    ] = False
    lora_r: Annotated[
        int, _about("The rank of the adapter: more can learn more.", title="LoRA rank", ge=1, le=4096)
    ] = 16
    lora_alpha: Annotated[
        int,
        _about(
            "Scales what the adapter adds (by alpha / rank). Twice the rank is usual.",
            title="LoRA alpha",
            ge=1,
            le=65_536,
        ),
    ] = 32
    lora_dropout: Annotated[
        float,
        _about("The share of adapter inputs dropped in training.", title="LoRA dropout", advanced=True, ge=0, lt=1),
    ] = 0.0
    lora_target_modules: Annotated[
        str,
        _about(
            "Which layers get an adapter: all-linear, or names with commas between, such as q_proj,v_proj.",
            title="LoRA layers",
            advanced=True,
        ),
    ] = "all-linear"


@dataclass(frozen=True, config=SETTINGS)
class Output:
    """What the run leaves behind."""

    output_dir: Annotated[
        str,
        _about("Where checkpoints go: the run's own folder. Filled in when the run starts.", advanced=True),
    ] = ""
    save_steps: Annotated[
        int,
        _about(
            "Writes a checkpoint every so many steps. 0: at the end of each epoch.",
            title="Checkpoint every",
            unit="steps",
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    save_total_limit: Annotated[
        int,
        _about(
            "Older checkpoints beyond this number are removed; the last and the best never are. 0: all are kept.",
            title="Checkpoints kept",
            unit="checkpoints",
            advanced=True,
            ge=0,
            le=10_000,
        ),
    ] = 3
    keep_best: Annotated[
        int,
        _about(
            "So many of the best checkpoints are kept beside the last ones.",
            unit="checkpoints",
            advanced=True,
            ge=0,
            le=10_000,
        ),
    ] = 1
    keep_every_steps: Annotated[
        int,
        _about(
            "The checkpoints of every so many steps are kept for good, beside the others. 0: none is.",
            title="Kept for good every",
            unit="steps",
            advanced=True,
            ge=0,
            le=100_000_000,
        ),
    ] = 0
    min_free_gib: Annotated[
        float,
        _about(
            "A run pauses when a further checkpoint would leave less of the disk free.",
            title="Stays free on the disk",
            unit="GiB",
            advanced=True,
            ge=0,
            le=1_000_000,
        ),
    ] = 1.0
    metric_for_best_model: Annotated[
        Literal["eval_loss", "loss"],
        _about("Which figure decides what is best; lower is better.", title="Best by", advanced=True),
    ] = "eval_loss"
    merge_adapter: Annotated[
        bool,
        _about("Publishes a LoRA run as a whole model; off: as an adapter that needs its base.", advanced=True),
    ] = True
    register_as: Annotated[
        str,
        _about("The id under which the finished model is listed. Empty: made from the run's name.", title="Model id"),
    ] = ""


@dataclass(frozen=True, config=SETTINGS)
class Environment:
    """The machine that the run gets."""

    gpus: Annotated[
        int,
        _about("How many GPUs the run takes. 0: one where the host has any.", title="GPUs", unit="GPUs", ge=0, le=1024),
    ] = 0
    num_nodes: Annotated[
        int, _about("How many hosts the run is spread over.", title="Hosts", unit="hosts", advanced=True, ge=1, le=1024)
    ] = 1
    distributed: Annotated[
        Literal["none", "ddp", "fsdp"],
        _about("How several GPUs share the work: ddp copies the model to each, fsdp divides it.", advanced=True),
    ] = "none"
    cpu_threads: Annotated[
        int,
        _about(
            "Threads for computing on the processor. 0: what the host's agent allows.",
            title="CPU threads",
            unit="threads",
            advanced=True,
            ge=0,
            le=1024,
        ),
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("How much the run's log says.", advanced=True)
    ] = "info"
    nice: Annotated[
        int,
        _about(
            "How far the run steps back for other processes on the host; 0 not at all, 19 most.",
            title="Niceness",
            advanced=True,
            ge=0,
            le=19,
        ),
    ] = 5


@dataclass(frozen=True, config=SETTINGS)
class TrainerConfig:
    """All settings of a run."""

    hyperparams: Hyperparams = Field(default_factory=Hyperparams)
    profile: Profile = Field(default_factory=Profile)
    monitoring: Monitoring = Field(default_factory=Monitoring)
    locked: Locked = Field(default_factory=Locked)
    data: Data = Field(default_factory=Data)
    model: Model = Field(default_factory=Model)
    output: Output = Field(default_factory=Output)
    environment: Environment = Field(default_factory=Environment)
