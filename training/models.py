"""Loads the model and the tokenizer that a run starts from. Runs in the training process.

Local folders, safetensors and built-in architectures alone: nothing is fetched, no pickle is opened, no code of a
model's own is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from monitoring.attempt import JobFaultError
from training.config.schema import TrainerConfig
from training.precision import choose_precision, frozen_dtype
from training.profiles.base import Profile
from training.profiles.chatml import CHATML_TEMPLATE
from training.quantization import let_files_go, loading_settings

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
CHATML_END = "<|im_end|>"
COMPUTED_IN = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_FETCH_AGAIN = "Look at the model's page: fetch or register it again if its files are gone."
Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """Where a run starts: the folder of a whole model, and of an adapter on it where one is continued."""

    base: Path
    adapter: Path | None = None


def trained_weights(model: Any) -> list[torch.Tensor]:
    """The weights that a run changes."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def load_tokenizer(start: Start, profile: Profile, say: Say) -> Any:
    """The fast tokenizer, with a chat template and a padding token in any case.

    Raises JobFaultError `tokenizer_missing`.
    """
    folder = start.adapter if start.adapter and (start.adapter / "tokenizer.json").is_file() else start.base
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise JobFaultError("tokenizer_missing", f"{folder} has no usable tokenizer: {error}", _FETCH_AGAIN) from error
    if not tokenizer.is_fast:
        raise JobFaultError(
            "tokenizer_missing",
            f"The tokenizer in {folder} has no tokenizer.json, so it is not known where its tokens begin.",
            "Convert it with transformers (save_pretrained of the fast tokenizer) and register the model again.",
        )
    if profile.chat_template is not None:
        tokenizer.chat_template = profile.chat_template
        say(f"The chat template is the one of the profile {profile.name}.")
    elif not tokenizer.chat_template:
        _take_chatml(tokenizer, say)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _take_chatml(tokenizer: Any, say: Say) -> None:
    """Gives a tokenizer without a template ChatML; an answer ends with a token that the tokenizer has."""
    if CHATML_END in tokenizer.get_vocab():
        tokenizer.chat_template = CHATML_TEMPLATE
        tokenizer.eos_token = CHATML_END
    else:
        tokenizer.chat_template = CHATML_TEMPLATE.replace(f"'{CHATML_END}\\n'", "eos_token + '\\n'")
    say("The model has no chat template, so it is trained with ChatML; the finished model has that template.")


def load_model(start: Start, config: TrainerConfig) -> Any:
    """The model to train: every weight in fp32, or a base with a LoRA adapter on it.

    Raises JobFaultError: `model_missing`, `model_damaged`, `config_invalid`.
    """
    set_seed(config.hyperparams.seed)
    model = load_base(start.base, config)
    if config.model.method == "full":
        if start.adapter is not None:
            model = PeftModel.from_pretrained(model, start.adapter).merge_and_unload()
        return model.requires_grad_(True)
    if config.model.gradient_checkpointing:
        model.enable_input_require_grads()
    if start.adapter is not None:
        return PeftModel.from_pretrained(model, start.adapter, is_trainable=True)
    try:
        return get_peft_model(model, lora_config(config))
    except ValueError as error:
        raise JobFaultError(
            "config_invalid",
            f"model.lora_target_modules {config.model.lora_target_modules!r} fits no layer of the model: {error}",
            "Set it to all-linear, or name layers of this model.",
        ) from error


def load_base(folder: Path, config: TrainerConfig) -> Any:
    """The whole model of a folder, on the processor, or on GPUs where those are to hold it quantized or spread."""
    if not (folder / "config.json").is_file():
        raise JobFaultError("model_missing", f"There is no config.json in {folder}.", _FETCH_AGAIN)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=_dtype(folder, config),
            attn_implementation=config.model.attn_implementation,
            use_safetensors=True,
            **_placement(config),
            **LOCAL,
        )
    except SafetensorError as error:
        raise JobFaultError(
            "model_damaged",
            f"{_damaged(folder)} is damaged and can't be loaded: {error}.",
            "Fetch or copy the model again.",
        ) from error
    except (OSError, KeyError) as error:
        raise JobFaultError("model_missing", f"The model in {folder} can't be loaded: {error}", _FETCH_AGAIN) from error
    except (ValueError, ImportError) as error:
        raise JobFaultError(
            "config_invalid",
            f"The model in {folder} can't be loaded as the settings of `model` ask: {error}",
            "Set model.attn_implementation to sdpa and model.dtype to auto; 8 and 4 bits need the extra `quant`.",
        ) from error
    if is_quantized(config):
        let_files_go(model)
    return model


def merged_onto_whole_weights(base: Path, adapter: Path) -> Any:
    """A model whose adapter has been merged in fp32 into its base as stored. Raises what `load_base` raises."""
    whole = load_base(base, TrainerConfig()).to(torch.float32)
    return PeftModel.from_pretrained(whole, adapter, use_safetensors=True).merge_and_unload()


def _damaged(folder: Path) -> Path:
    """The first file of weights that does not open; the folder where all do."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                continue
        except (SafetensorError, OSError):
            return file
    return folder


def dtype_on_disk(folder: Path) -> torch.dtype:
    """The number format that a model's configuration names; fp32 where it names none."""
    dtype = AutoConfig.from_pretrained(folder, **LOCAL).get_text_config().dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def lora_config(config: TrainerConfig) -> LoraConfig:
    """The adapter that the settings describe."""
    targets = config.model.lora_target_modules.strip()
    names = [name.strip() for name in targets.split(",") if name.strip()]
    return LoraConfig(
        r=config.model.lora_r,
        lora_alpha=config.model.lora_alpha,
        lora_dropout=config.model.lora_dropout,
        target_modules=targets if targets == "all-linear" else names,
        task_type="CAUSAL_LM",
    )


def is_quantized(config: TrainerConfig) -> bool:
    """Whether the base is held in 8 or 4 bits."""
    return config.model.load_in_8bit or config.model.load_in_4bit


def _dtype(folder: Path, config: TrainerConfig) -> torch.dtype:
    if config.model.method == "full":
        return torch.float32
    return frozen_dtype(config, dtype_on_disk(folder))


def _quantized_device(config: TrainerConfig) -> Any:
    """Where weights of 8 or 4 bits go; of several processes each has a copy of its own."""
    if not torch.cuda.is_available():
        return {"": "cpu"}
    return {"": torch.cuda.current_device()} if torch.distributed.is_initialized() else config.model.device_map


def _placement(config: TrainerConfig) -> dict[str, Any]:
    """Quantized weights and models over several GPUs are placed while loading; all others by the trainer."""
    if is_quantized(config):
        computed_in = getattr(torch, COMPUTED_IN[choose_precision(config).mode])
        quantization = loading_settings(8 if config.model.load_in_8bit else 4, computed_in)
        return {"quantization_config": quantization, "device_map": _quantized_device(config)}
    if torch.cuda.device_count() > 1 and not torch.distributed.is_initialized():
        return {"device_map": config.model.device_map}
    return {}
