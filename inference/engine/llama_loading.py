"""From a model's folder and its GGUF export to a model in llama.cpp. Runs in the inference process, once.

The tokenizer, the end tokens and the chat template are those of the folder, as with every engine: the file is asked for
its weights alone. Whatever adapter the model is has been merged when the file was written.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from inference.engine.llama_library import LlamaLibrary, Shape, installed
from inference.engine.loading import LoadedModel, context_of, end_token_ids, sampling_defaults, tokenizer_of
from inference.progress import NO_REPORT, Report
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact
from monitoring.files import EXPORTS_FOLDER
from monitoring.memory_limits import memory_free_bytes

PIECE_TOKENS = 512
LEAST_CONTEXT = 512
PREFERRED = ("Q4_K_M", "Q8_0", "F16", "F32")
"""Which export is served where nobody says: the fastest on a processor."""


@dataclass(frozen=True)
class LlamaSettings:
    """What a serve job says of it; `gguf` "" is the first of PREFERRED that there is."""

    gguf: str
    dtype: str
    device: str
    max_batch: int
    max_model_length: int
    cpu_threads: int


def load_llama(
    model: Artefact, base: Artefact | None, settings: LlamaSettings, report: Report = NO_REPORT
) -> LoadedModel:
    """Loads an export; the `model` of the result is a LlamaLibrary. Raises JobFaultError where a file or a setting is
    at fault."""
    file = _export(model, settings.gguf)
    cache_dtype = "float16" if settings.dtype == "auto" else settings.dtype
    report("reading the tokenizer")
    folders = [Path(artefact.path) for artefact in (model, base) if artefact is not None]
    tokenizer = tokenizer_of(*folders)
    weights = next((folder for folder in reversed(folders) if (folder / "config.json").is_file()), folders[0])
    config = AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False).get_text_config()
    length = context_of(config, settings.max_model_length)
    on_gpu = settings.device != "cpu" and bool(installed().llama_supports_gpu_offload())
    size = token_bytes(config, cache_dtype)
    cells = _cells(size, file, settings.max_batch * length, on_gpu=on_gpu)
    if cells < length:
        report(f"memory allows a context of {cells} tokens, not of {length}")
    report(f"loading {file.name} with room for {cells} tokens of keys and values")
    threads = settings.cpu_threads or torch.get_num_threads()
    rows = settings.max_batch
    shape = Shape(cells, size, sequences=2 * rows, piece=max(PIECE_TOKENS, rows))
    library = LlamaLibrary(file, shape, report, on_gpu=on_gpu, cache_dtype=cache_dtype, threads=threads)
    return LoadedModel(
        model=library,
        tokenizer=tokenizer,
        encoder=tokenizer_of(*folders),
        max_model_length=min(length, cells),
        vocabulary_size=library.vocabulary_size,
        end_token_ids=end_token_ids(tokenizer, config.eos_token_id, *_named_ends(weights)),
        sampling_defaults=sampling_defaults(weights),
        device="gpu" if on_gpu else "cpu",
        dtype=file.stem,
        cpu_threads=threads,
    )


def token_bytes(config: Any, cache_dtype: str) -> int:
    """The size of one token's keys and values in all layers."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = 4 if cache_dtype == "float32" else 2
    return int(2 * config.num_hidden_layers * heads * head * size)


def _export(model: Artefact, gguf: str) -> Path:
    folder = Path(model.path) / EXPORTS_FOLDER
    for name in [gguf] if gguf else PREFERRED:
        if (folder / f"{name}.gguf").is_file():
            return folder / f"{name}.gguf"
    raise JobFaultError(
        "export_missing",
        f"The model {model.id} has no GGUF export{f' {gguf}' if gguf else ''}, and llama_cpp serves nothing else.",
        "Export it on the model's page, or serve it with the engine transformers.",
    )


def _cells(size: int, file: Path, wanted: int, *, on_gpu: bool) -> int:
    """So many tokens as all rows may need, if half of what memory the weights leave holds them."""
    has_card = on_gpu and torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if has_card else memory_free_bytes()
    if free is None:
        free = psutil.virtual_memory().available
    room = max(0, free - file.stat().st_size) // 2
    return max(LEAST_CONTEXT, min(wanted, room // size))


def _named_ends(folder: Path) -> list[Any]:
    path = folder / "generation_config.json"
    return [json.loads(path.read_text()).get("eos_token_id")] if path.is_file() else []
