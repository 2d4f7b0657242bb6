"""From folders to a model that can generate: the weights, an adapter merged into its base, the tokenizer.

Weights in 8 or 4 bits are quantised as they are read, so that the whole ones are never held. An adapter stays beside
them as it was trained: merging would round it to these few bits with the rest.

Runs in the inference process, once. Reads safetensors only, runs no code that comes with a model, uses no network.
"""

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.engine.adapters import ADAPTER_FILE, AdapterRows, add_adapters
from inference.engine.weights_progress import counted
from inference.progress import NO_REPORT, Report
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact
from training import quantization
from training.profiles.turn_ends import TURN_ENDS

DEFAULT_CONTEXT_TOKENS = 2048
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, in evaluation mode, and what an engine and a server need to know about it.

    `tokenizer` belongs to the engine's thread, `encoder` (a copy of it) to whoever makes prompts.
    `sampling_defaults` are those of the model's own generation_config.json: temperature, top_p, top_k, min_p,
    repetition_penalty, as far as it names them. `adapters` are those beside the model, `adapter_encoders` what makes
    prompts for each of them: a training may have changed the chat template.
    """

    model: Any
    tokenizer: Any
    encoder: Any
    max_model_length: int
    vocabulary_size: int
    end_token_ids: frozenset[int]
    sampling_defaults: dict[str, float]
    device: str
    dtype: str
    cpu_threads: int
    adapters: AdapterRows = field(default_factory=AdapterRows)
    adapter_encoders: Mapping[str, Any] = field(default_factory=dict)


def load_model(
    model: Artefact,
    base: Artefact | None,
    *,
    adapters: Sequence[Artefact] = (),
    dtype: str = "auto",
    bits: int = 0,
    device: str = "auto",
    max_model_length: int = 0,
    cpu_threads: int = 0,
    report: Report = NO_REPORT,
) -> LoadedModel:
    """Loads a full model, or an adapter on its base; a full model also with `adapters` beside it. `bits`: 8 or 4 a
    weight of its layers (0: whole weights), computed in `dtype`.

    Raises JobFaultError where a folder or a setting is at fault.
    """
    if cpu_threads:
        torch.set_num_threads(cpu_threads)
    if bits:
        quantization.require(f"load_in_{bits}bit")
    folder, adapter = _folders(model, base)
    if adapter is not None and adapters:
        raise _needs_base(model)
    place = _device(device)
    report("reading the tokenizer")
    tokenizer = tokenizer_of(Path(model.path), folder)
    kind = _dtype(dtype, place, folder)
    report(f"loading the weights of {folder.name} {f'in {bits} bits' if bits else f'as {_name_of(kind)}'} on {place}")
    with counted(report):
        loaded = _weights(folder, kind, place, bits)
    _check_architecture(loaded)
    if adapter is not None:
        report("putting the adapter beside its base" if bits else "merging the adapter into its base")
        loaded = _with_adapter(loaded, adapter, is_merged=not bits)
    encoders = {beside.id: _encoder_beside(tokenizer, beside, folder) for beside in adapters}
    loaded, rows = add_adapters(loaded, model, adapters)
    loaded.eval()
    text_config = loaded.config.get_text_config()
    return LoadedModel(
        model=loaded,
        tokenizer=tokenizer,
        encoder=copy.deepcopy(tokenizer),
        max_model_length=context_of(text_config, max_model_length),
        vocabulary_size=int(text_config.vocab_size),
        end_token_ids=_ends_of(loaded, tokenizer, *encoders.values()),
        sampling_defaults=sampling_defaults(folder),
        device=str(loaded.device),
        dtype=_name_of(loaded.dtype),
        cpu_threads=cpu_threads,
        adapters=rows,
        adapter_encoders=encoders,
    )


def _needs_base(model: Artefact) -> JobFaultError:
    return JobFaultError(
        "adapters_need_base",
        f"The model {model.id} is an adapter itself: others can't be served beside it.",
        "Serve them beside their base.",
    )


def _folders(model: Artefact, base: Artefact | None) -> tuple[Path, Path | None]:
    """The folder of the full weights, and that of the adapter if the model is one."""
    folder = Path(model.path)
    if not folder.is_dir():
        raise JobFaultError("model_missing", f"There is no folder {folder}.", "Register the model again.")
    if not (folder / ADAPTER_FILE).exists():
        return folder, None
    if base is None:
        raise JobFaultError(
            "base_missing",
            f"The model {model.id} is an adapter, and its base is not given.",
            "Register its base model.",
        )
    if not Path(base.path).is_dir():
        raise JobFaultError("base_missing", f"There is no folder {base.path}.", "Register the base model again.")
    return Path(base.path), folder


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return "cpu"
    return "cuda:0" if torch.cuda.device_count() == 1 else "auto"


def _dtype(wanted: str, device: str, folder: Path) -> torch.dtype:
    """The dtype to load in. "auto" is the checkpoint's own, where the device computes with it at full speed."""
    if wanted != "auto":
        return DTYPES[wanted]
    config = json.loads((folder / "config.json").read_text())
    stored = DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    if stored is torch.float32:
        return stored
    if device == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    if stored is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return stored


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tokenizer_of(*folders: Path) -> Any:
    """The tokenizer of the first folder that has one. Raises JobFaultError where none has."""
    for folder in folders:
        if (folder / "tokenizer_config.json").exists() or (folder / "tokenizer.json").exists():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            backend = getattr(tokenizer, "backend_tokenizer", None)
            if backend is not None:  # a training run may have left its own settings in the file
                backend.no_truncation()
                backend.no_padding()
            return tokenizer
    raise JobFaultError("tokenizer_missing", f"{folders[0]} has no tokenizer.", "Register a model with tokenizer.json.")


def _encoder_beside(tokenizer: Any, adapter: Artefact, base: Path) -> Any:
    """An adapter's own tokenizer, which may write prompts in another way but must have the same tokens."""
    encoder = tokenizer_of(Path(adapter.path), base)
    if encoder.get_vocab() != tokenizer.get_vocab():
        raise JobFaultError(
            "adapter_unmixable",
            f"The adapter {adapter.id} can't be served beside others (it has tokens of its own).",
            "Activate it as a model of its own.",
        )
    return encoder


def _weights(folder: Path, dtype: torch.dtype, device: str, bits: int) -> Any:
    placement: dict[str, Any] = {"device_map": None if device == "cpu" else device}
    if bits:
        placement["quantization_config"] = quantization.loading_settings(bits, dtype)
        placement["device_map"] = device if device == "auto" else {"": device}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True, **placement
        )
    except torch.OutOfMemoryError as error:
        raise JobFaultError(
            "out_of_memory",
            f"The device has too little memory for {folder.name}: {error}",
            "Stop what else runs on it.",
        ) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        fix = f"Check config.json and the safetensors files{f', or leave load_in_{bits}bit out' if bits else ''}."
        raise JobFaultError("model_unreadable", f"{folder} can't be loaded: {error}", fix) from error
    if bits:
        quantization.let_files_go(model)
    return model


def _with_adapter(base: Any, adapter: Path, *, is_merged: bool) -> Any:
    from peft import PeftModel  # takes two seconds to import, and most models are no adapters

    adapted = PeftModel.from_pretrained(base, adapter, use_safetensors=True)
    return adapted.merge_and_unload() if is_merged else adapted.get_base_model()


def _check_architecture(model: Any) -> None:
    """The rolling batch moves keys and values between rows; a recurrent state can't be moved like that."""
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    parameters = inspect.signature(model.forward).parameters
    lacking = sorted(layers - ATTENTION_LAYERS) or sorted({"cache", "position_ids", "logits_to_keep"} - set(parameters))
    if lacking:
        raise JobFaultError(
            "architecture_unsupported",
            f"The transformers engine can't batch {type(model).__name__} ({', '.join(lacking)}).",
            "Serve it with another engine.",
        )


def context_of(text_config: Any, wanted: int) -> int:
    """The most tokens of prompt and completion together: what is wanted (0: all), as far as the model goes."""
    own = int(getattr(text_config, "max_position_embeddings", 0) or 0)
    if wanted <= 0:
        return own or DEFAULT_CONTEXT_TOKENS
    return min(own, wanted) if own else wanted


def _ends_of(model: Any, *tokenizers: Any) -> frozenset[int]:
    named = (model.generation_config.eos_token_id, model.config.eos_token_id)
    return frozenset[int]().union(*(end_token_ids(tokenizer, *named) for tokenizer in tokenizers))


def end_token_ids(tokenizer: Any, *named: int | list[int] | None) -> frozenset[int]:
    """Every token that ends a text: those that the model names, the tokenizer's own, and the end of a turn in the chat
    template."""
    ids: set[int] = set()
    for end in (*named, tokenizer.eos_token_id):
        ids.update([end] if isinstance(end, int) else end or ())
    template = str(tokenizer.chat_template or "<|im_end|>")
    vocabulary = tokenizer.get_vocab()
    ids.update(vocabulary[end] for end in TURN_ENDS if end in template and end in vocabulary)
    return frozenset(ids)


def sampling_defaults(folder: Path) -> dict[str, float]:
    """What the model's own generation_config.json says of sampling."""
    path = folder / "generation_config.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: stored[name] for name in names if isinstance(stored.get(name), int | float)}
