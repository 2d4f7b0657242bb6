"""Reads the flat `config.json` of the system that Pilothouse replaces: keys without sections, under their older names.

Runs in every process; imports neither torch nor transformers. A key that has a place now is moved there, one that has
none is named with the reason; nothing is dropped in silence. A value that can't be taken stays as it is, so that the
schema refuses it by its path.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.config.fields import by_path, fields, sections

Moved = tuple[str, Any]
"""A setting's path and its value."""


@dataclass(frozen=True)
class LeftOut:
    """A key of the file that has no place here, and why."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


@dataclass
class Flat:
    """What a flat file comes to: `config` nested by section, `keys` the file's key by path, and what is left out.

    `clashes` are pairs of keys that ask for one setting with two values: (path, key, other key).
    """

    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    clashes: list[tuple[str, str, str]] = field(default_factory=list)


def is_flat(value: Mapping[str, Any]) -> bool:
    """Whether this is a flat file: some key holds a value where a configuration has sections of settings."""
    names = {section.name for section in sections()}
    known = _PATHS
    return any(
        not isinstance(held, Mapping) and (key not in names or _word(key) in known) for key, held in value.items()
    )


def read_flat(value: Mapping[str, Any]) -> Flat:
    """Moves every key to its place. Sections that are nested already are taken as they are."""
    flat = Flat()
    names = {section.name for section in sections()}
    for key, held in value.items():
        if isinstance(held, Mapping) and key in names:
            for name, inner in held.items():
                _put(flat, f"{key}.{name}", inner, f"{key}.{name}")
        elif isinstance(held, Mapping):
            for name, inner in held.items():
                joined = f"{_word(key)}_{_word(name)}"
                _take(flat, joined if _is_known(joined) else _word(name), inner, f"{key}.{name}", value)
        else:
            _take(flat, _word(key), held, key, value)
    return flat


def _word(key: str) -> str:
    """Keys were written with dashes and capitals too."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(key)).replace("-", "_").lower()


def _is_known(word: str) -> bool:
    return word in _PATHS or word in _CHANGED or word in NO_PLACE


def _take(flat: Flat, word: str, value: Any, key: str, whole: Mapping[str, Any]) -> None:
    """Puts one key where it belongs, or among those left out."""
    if any(mark in word for mark in SECRETS):
        flat.left_out.append(LeftOut(key, "Secrets don't belong in a configuration: the agent's environment has them."))
    elif value is None:  # "not set": the default holds
        if word not in _CHANGED and word not in _PATHS:
            flat.left_out.append(LeftOut(key, NO_PLACE.get(word) or _no_such(word)))
    elif word in _CHANGED:
        moved = _CHANGED[word](value, whole)
        if isinstance(moved, str):
            flat.left_out.append(LeftOut(key, moved))
        else:
            for there, held in moved:
                _put(flat, there, held, key)
    elif path := _PATHS.get(word):
        _put(flat, path, _in_kind(path, value), key)
    else:
        flat.left_out.append(LeftOut(key, NO_PLACE.get(word) or _no_such(word)))


def _put(flat: Flat, path: str, value: Any, key: str) -> None:
    section, name = path.split(".", 1)
    held = flat.config.setdefault(section, {})
    if name in held and held[name] != value:
        flat.clashes.append((path, flat.keys[path], key))
    held[name] = value
    flat.keys[path] = key


def _in_kind(path: str, value: Any) -> Any:
    """The value in the setting's kind, where it was written as a text, a list or 3.0."""
    kind = by_path()[path].kind
    is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if kind in ("integer", "number") and is_plain:
        return _in_number(value, is_whole=kind == "integer")
    if kind == "text" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if kind == "text" and isinstance(value, int) and is_plain:
        return str(value)
    return [value] if kind == "list" and isinstance(value, str) else value


def _in_number(value: Any, *, is_whole: bool) -> Any:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return value
    return int(number) if is_whole and number.is_integer() else number if isinstance(value, str) else value


def _no_such(word: str) -> str:
    near = difflib.get_close_matches(word, _PATHS, n=1)
    hint = f" Did you mean {near[0]}, which is {_PATHS[near[0]]}?" if near else ""
    return f"No setting of this name is known.{hint}"


# --- Names that have changed ------------------------------------------------------------------------------------------

_AMBIGUOUS = {"name", "version", "options"}
_NAMES = [item.name for item in fields()]
_SAME = {
    item.name: item.path
    for item in fields()
    if _NAMES.count(item.name) == 1 and item.name not in _AMBIGUOUS and item.section != "locked"
}

_OTHERS = {
    old: path
    for path, names in {
        "hyperparams.num_train_epochs": "epochs num_epochs n_epochs max_epochs",
        "hyperparams.max_steps": "max_train_steps total_steps",
        "hyperparams.per_device_train_batch_size":
            "batch_size train_batch_size per_device_batch_size micro_batch_size device_batch_size",
        "hyperparams.gradient_accumulation_steps":
            "gradient_accumulation grad_accumulation grad_accum grad_accum_steps accumulation_steps "
            "accumulate_grad_batches",
        "hyperparams.learning_rate": "lr",
        "hyperparams.weight_decay": "decay",
        "hyperparams.warmup_ratio": "warmup warmup_fraction",
        "hyperparams.lr_scheduler_type": "lr_scheduler lr_schedule scheduler schedule scheduler_type",
        "hyperparams.max_grad_norm": "grad_clip gradient_clip gradient_clipping max_norm clip_grad_norm",
        "hyperparams.max_length": "max_seq_length max_seq_len max_sequence_length sequence_length seq_length seq_len "
            "cutoff_len cutoff_length block_size context_length model_max_length",
        "hyperparams.seed": "random_seed data_seed",
        "hyperparams.early_stopping_patience": "patience",
        "hyperparams.early_stopping_threshold": "min_delta early_stopping_min_delta",
        "profile.name": "profile data_profile dataset_profile training_profile profile_name",
        "profile.system_prompt": "system system_message default_system_prompt",
        "profile.options": "profile_options",
        "monitoring.logging_steps": "log_steps log_every log_every_n_steps log_interval",
        "monitoring.eval_steps": "eval_every eval_interval evaluation_steps validation_steps",
        "monitoring.eval_samples": "max_eval_samples eval_examples",
        "monitoring.sample_steps": "sample_every sample_interval generate_every",
        "monitoring.sample_prompts": "prompts eval_prompts test_prompts sample_prompt",
        "monitoring.update_interval_seconds": "update_interval stats_interval progress_interval",
        "monitoring.stuck_timeout_seconds": "stuck_timeout timeout_seconds",
        "data.train_dataset": "dataset dataset_id dataset_name dataset_path train_file train_path training_file "
            "train_data training_data data_path data_file data",
        "data.eval_dataset": "eval_file eval_path eval_data validation_file validation_data val_file valid_file",
        "data.eval_fraction": "eval_split val_split validation_split validation_fraction val_fraction test_size "
            "eval_ratio val_ratio validation_ratio",
        "data.length_grouping": "group_by_length length_grouped_batches",
        "data.min_tokens": "min_length min_seq_length",
        "data.drop_duplicates": "deduplicate dedup remove_duplicates",
        "data.max_examples": "max_samples max_train_samples num_samples limit",
        "data.workers": "num_workers dataloader_num_workers dataloader_workers preprocessing_num_workers",
        "model.model": "model_id model_name model_path model_name_or_path base_model base_model_path base_model_name "
            "pretrained_model pretrained_model_name_or_path",
        "model.method": "training_method finetuning_type finetune_method",
                "model.load_in_8bit": "load_8bit use_8bit",
        "model.load_in_4bit": "load_4bit use_4bit qlora use_qlora",
        "model.attn_implementation": "attention attention_implementation",
        "model.gradient_checkpointing": "use_gradient_checkpointing grad_checkpointing activation_checkpointing",
        "model.lora_r": "lora_rank rank r",
        "model.lora_alpha": "alpha",
        "model.lora_dropout": "dropout",
        "model.lora_target_modules": "target_modules lora_modules lora_target lora_layers",
        "output.output_dir": "output output_path output_folder save_dir checkpoint_dir",
        "output.save_steps": "checkpoint_steps checkpoint_every save_every save_interval",
        "output.save_total_limit": "max_checkpoints keep_checkpoints keep_last checkpoint_limit",
        "output.merge_adapter": "merge merge_lora merge_weights",
        "output.register_as": "output_model_name new_model_name model_output_name",
        "environment.gpus": "num_gpus n_gpus n_gpu gpu_count",
        "environment.distributed": "distributed_strategy parallelism",
        "environment.cpu_threads": "num_threads threads omp_num_threads",
        "environment.log_level": "logging_level verbosity",
        "environment.nice": "niceness",
    }.items()
    for old in names.split()
}  # fmt: skip
"""The older names of settings."""
_PATHS = {**_OTHERS, **_SAME}

# --- Keys whose value means something else now ------------------------------------------------------------------------

OPTIMIZERS = {
    "adamw": "adamw_torch", "adam": "adamw_torch", "adamw_hf": "adamw_torch", "adamw_fused": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit", "paged_adamw": "paged_adamw_8bit",
}  # fmt: skip
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32"}
BITS = {"4": "load_in_4bit", "8": "load_in_8bit"}
NEITHER = "It is a switch: true or false."


def _optimizer(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    word = str(value).lower()
    return [("hyperparams.optim", OPTIMIZERS.get(word, word))]


def _dtype(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    word = str(value).lower().removeprefix("torch.")
    return [("model.dtype", DTYPES.get(word, word))]


def _precision(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    word = str(value).lower()
    known = {"no": "fp32", "none": "fp32", "false": "fp32", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    return [("hyperparams.precision", known.get(word, word))]


def _is_on(value: Any) -> bool | None:
    """What a switch says, also in words; None where it says neither."""
    if isinstance(value, str):
        value = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(value.lower())
    return value if isinstance(value, bool) else {1: True, 0: False}.get(value) if isinstance(value, int) else None


def _half(kind: str) -> Callable[[Any, Mapping[str, Any]], list[Moved] | str]:
    """`bf16: true` and `fp16: true`, one of which is usually false and says nothing."""

    def read(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
        on = _is_on(value)
        return [("hyperparams.precision", kind)] if on else NEITHER if on is None else []

    return read


def _warmup_steps(value: Any, whole: Mapping[str, Any]) -> list[Moved] | str:
    """A number of steps is a share where it is known of how many."""
    steps = next((whole[name] for name in ("max_steps", "max_train_steps", "total_steps") if name in whole), None)
    is_count = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if is_count and value == 0:
        return [("hyperparams.warmup_ratio", 0.0)]
    if is_count and isinstance(steps, int) and not isinstance(steps, bool) and steps > 0:
        return [("hyperparams.warmup_ratio", min(1.0, value / steps))]
    return (
        "The warm-up is a share of all steps now (hyperparams.warmup_ratio), and without max_steps nobody knows of "
        "how many."
    )


def _by_epoch(path: str) -> Callable[[Any, Mapping[str, Any]], list[Moved] | str]:
    """`evaluation_strategy` and `save_strategy`: 0 steps stand for the end of each epoch."""

    def read(value: Any, whole: Mapping[str, Any]) -> list[Moved] | str:
        name = path.split(".")[1]
        if value == "epoch":
            return [(path, 0)]
        if value == "steps" and name in whole:
            return f"Said by {name} already."
        return f"{path} decides: a number of steps, or 0 for the end of each epoch."

    return read


def _lora(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    on = _is_on(value)
    return "model.method decides: lora or full." if on is None else [("model.method", "lora" if on else "full")]


def _full(value: Any, whole: Mapping[str, Any]) -> list[Moved] | str:
    on = _is_on(value)
    return _lora(value if on is None else not on, whole)


def _quantization(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    word = str(value).lower()
    found = next((name for digit, name in BITS.items() if digit in word.replace("16", "").replace("32", "")), None)
    return [(f"model.{found}", True)] if found else f"Only 4 and 8 bits are known (model.load_in_4bit), not {value!r}."


def _flash(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    on = _is_on(value)
    return NEITHER if on is None else [("model.attn_implementation", "flash_attention_2" if on else "sdpa")]


def _early_stopping(value: Any, whole: Mapping[str, Any]) -> list[Moved] | str:
    on = _is_on(value)
    if on is None:
        return NEITHER
    if on:
        if "early_stopping_patience" in whole or "patience" in whole:
            return "Said by the patience already."
        return [("hyperparams.early_stopping_patience", 3)]
    return [("hyperparams.early_stopping_patience", 0)]


def _switch(name: str) -> Callable[[Any, Mapping[str, Any]], list[Moved] | str]:
    """`emoji_think: true` and its like: a profile that was a switch."""

    def read(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
        on = _is_on(value)
        return [("profile.name", name)] if on else NEITHER if on is None else []

    return read


def _chain(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    """`continue_from_current: true`: the one chain that there was, or another by its name."""
    on = _is_on(value)
    if on is None:
        return [("model.chain", value)] if isinstance(value, str) else NEITHER
    return [("model.chain", "current_model")] if on else []


def _best(value: Any, _whole: Mapping[str, Any]) -> list[Moved] | str:
    word = str(value).removeprefix("train_")
    return [("output.metric_for_best_model", {"val_loss": "eval_loss", "validation_loss": "eval_loss"}.get(word, word))]


_CHANGED: dict[str, Callable[[Any, Mapping[str, Any]], list[Moved] | str]] = {
    "optim": _optimizer, "optimizer": _optimizer, "dtype": _dtype, "torch_dtype": _dtype, "model_dtype": _dtype,
    "precision": _precision, "mixed_precision": _precision, "bf16": _half("bf16"), "fp16": _half("fp16"),
    "warmup_steps": _warmup_steps, "num_warmup_steps": _warmup_steps,
    "evaluation_strategy": _by_epoch("monitoring.eval_steps"), "eval_strategy": _by_epoch("monitoring.eval_steps"),
    "save_strategy": _by_epoch("output.save_steps"),
    "use_lora": _lora, "lora": _lora, "use_peft": _lora, "full_finetune": _full, "full_finetuning": _full,
    "quantization": _quantization, "quantization_bits": _quantization, "quantize": _quantization,
    "use_flash_attention": _flash, "flash_attention": _flash, "use_flash_attn": _flash, "flash_attn": _flash,
    "continue_from_current": _chain, "continue_from_current_model": _chain,
    "early_stopping": _early_stopping, "metric_for_best_model": _best, "best_metric": _best,
    "emoji_think": _switch("emoji_think"), "use_emoji_think": _switch("emoji_think"),
    "emoji_mode": _switch("emoji_think"), "regime3": _switch("regime3"), "use_regime3": _switch("regime3"),
}  # fmt: skip

# --- Keys that have no place ------------------------------------------------------------------------------------------

SECRETS = ("password", "secret", "api_key", "access_token", "hf_token", "hub_token", "auth_token")
_ELSEWHERE = {
    "A run's name is given beside its configuration.": "name run_name job_name experiment_name project project_name",
    "Where a run computes is the host's and its agent's choice (environment.gpus says how many GPUs).":
        "device cuda_visible_devices gpu gpu_id gpu_ids device_id local_rank no_cuda use_cpu",
    "The best checkpoint is always kept (output.keep_best) and published when the run stopped early.":
        "load_best_model_at_end save_best_only save_best",
    "Measures are drawn on the run's page and answered by GET /api/runs/ID/metrics and /metrics.":
        "report_to wandb use_wandb wandb_project wandb_entity wandb_run_name tensorboard tensorboard_dir "
        "logging_dir log_dir log_file",
    "Evaluation takes the training batch size (hyperparams.per_device_train_batch_size).":
        "eval_batch_size per_device_eval_batch_size val_batch_size",
    "A run goes on from its last checkpoint by itself.": "resume resume_from resume_from_checkpoint auto_resume",
    "Its checkpoints lie under the run's own folder; nothing is overwritten.": "overwrite_output_dir overwrite",
    "Models are published to the registry here, never to a hub.": "push_to_hub hub_model_id hub_private_repo",
    "The optimizer's other figures are transformers' own defaults.":
        "adam_beta1 adam_beta2 adam_epsilon beta1 beta2 betas eps epsilon momentum",
    "Hosts are the fleet's: no run starts or finds them by itself.":
        "use_ray ray_address ray num_workers_per_host master_addr master_port world_size nnodes nproc_per_node "
        "deepspeed deepspeed_config",
    "environment.distributed decides: none, ddp or fsdp.": "fsdp fsdp_config ddp use_ddp use_fsdp",
    "The queue has it: priorities are given when a run is queued.": "priority queue queue_dir inbox_dir daemon",
    "Whether a tokenizer or a model may run code of its own is not a choice here: it may not.": "trust_remote_code",
    "The tokenizer is the model's own.": "tokenizer tokenizer_name tokenizer_path use_fast_tokenizer",
    "The chat template is the profile's or the model's.": "chat_template template prompt_template prompt_format",
    "LoRA trains no bias and no other layers here.": "lora_bias bias modules_to_save use_rslora use_dora task_type",
    "Of a conversation the assistant's words alone are learned; that is no choice.":
        "train_on_inputs train_on_prompt mask_prompt completion_only completion_only_loss assistant_only_loss",
}  # fmt: skip
NO_PLACE = {key: reason for reason, keys in _ELSEWHERE.items() for key in keys.split()}
"""Known keys that have no place now, with the reason."""
