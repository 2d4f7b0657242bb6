"""A registered model as one GGUF file, for llama.cpp, Ollama and LM Studio. Runs in the `fetch` job.

The file is written under a hidden name and renamed when it is whole. F32, F16 and Q8_0 are written here; Q4_K_M is
llama.cpp's own work on such a file.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, JobSpec
from monitoring.files import sha256_of, sync_folder
from training.fetch.gguf_layout import EMBEDDING, OUTPUT, ROPE_FREQUENCIES, Array, Layout
from training.fetch.gguf_quantise import require_llama_cpp
from training.fetch.gguf_tokenizer import describe_tokenizer
from training.fetch.gguf_weights import Weights, open_weights
from training.fetch.layout import full_disk_told, require_space
from training.pacing import PacedProgress

FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_K_M": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
"""What can be exported to. Norms and biases stay F32 in all of them."""

BY_LLAMA_CPP = {"Q4_K_M": "F16"}
"""What llama.cpp makes, and of which file."""

LARGEST_F16 = 65_504.0


def export_model(spec: JobSpec, events: EventWriter) -> dict[str, Any]:
    """Writes `config["export"]` of the model in `spec.inputs` into `spec.output_dir`; returns the `result` event's
    values: {"export", "file", "size_bytes", "sha256"}. Raises JobFaultError."""
    wanted = spec.config.get("export")
    model, base = spec.inputs.model, spec.inputs.base
    if wanted not in FILE_TYPES or model is None:
        raise JobFaultError("bad_config", f"There is no export {wanted!r}.", f"Take one of {', '.join(FILE_TYPES)}.")
    folder, adapter = Path(model.path), None
    if (folder / "adapter_config.json").is_file():
        if base is None:
            raise JobFaultError(
                "base_missing", f"{model.id} is an adapter, and its base is not given.", "Register its base model."
            )
        folder, adapter = Path(base.path), folder
    made = BY_LLAMA_CPP.get(wanted, wanted)
    if made != wanted:
        require_llama_cpp(wanted)  # before an hour's work, not behind it
    out = Path(spec.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    final = out / f"{wanted}.gguf"
    with _workplace(out, wanted) as scratch:
        first = scratch / "first.gguf"
        with open_weights(folder, adapter) as weights:
            _write(first, made, _Source(model.id, [path for path in (adapter, folder) if path], weights), events)
        if made != wanted:
            events.log(f"llama.cpp makes {wanted} of it")
            first = _quantised(first, wanted)
        with first.open("rb") as stream:
            os.fsync(stream.fileno())
        first.rename(final)
        sync_folder(out)
    events.log(f"Exported {model.id} as {final.name}, {final.stat().st_size:,} bytes.")
    return {"export": wanted, "file": final.name, "size_bytes": final.stat().st_size, "sha256": sha256_of(final)}


@contextlib.contextmanager
def _workplace(out: Path, wanted: str) -> Iterator[Path]:
    """A folder of this export's own. Those that killed exports of the model have left go first, unless another export
    of it is at work: the folder around them is locked for as long as one is."""
    scratch = out / f".{wanted}.partial"
    folder = os.open(out, os.O_RDONLY)
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another is at work, or the disk knows no locks
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in out.glob(".*.partial"):
                shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_SH)
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(folder)


@dataclass(frozen=True)
class _Source:
    """What is written down: the tokenizer and the template of the first of `folders` that has them, the configuration
    of the last one."""

    name: str
    folders: list[Path]
    weights: Weights


def _write(path: Path, kind: str, source: _Source, events: EventWriter) -> None:
    """The whole file."""
    weights = source.weights
    layout, writer = _begun(path, kind, source)
    pairs = list(layout.names(_kept(weights, layout)))
    extra = layout.rope_frequencies()
    total = 0
    if extra is not None:
        writer.add_tensor_info(ROPE_FREQUENCIES, extra.shape, extra.dtype, extra.nbytes, gguf.GGMLQuantizationType.F32)
    for given, written in pairs:
        total += _announce(writer, written, weights.shapes[given], kind)
    require_space(path.parent, total)
    progress = PacedProgress(events, "tensors", len(pairs))
    with full_disk_told(path.parent):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if extra is not None:
            writer.write_tensor_data(extra)
        for done, (given, _) in enumerate(pairs):
            progress.update(done, given)
            writer.write_tensor_data(_encoded(layout.arranged(given, weights.read(given)), kind))
        writer.close()
    progress.finish(len(pairs), "Written")


def _kept(weights: Weights, layout: Layout) -> list[str]:
    """The tensors that make the model: an output layer that says the same as the embedding is none of its own."""
    names = sorted(weights.shapes)
    is_double = layout.config.tie_word_embeddings and {OUTPUT, EMBEDDING} <= set(names)
    if is_double and np.array_equal(weights.read(OUTPUT), weights.read(EMBEDDING)):
        names.remove(OUTPUT)
    return names


def _begun(path: Path, kind: str, source: _Source) -> tuple[Layout, Any]:
    """A file of which all is said but the weights."""
    from transformers import AutoConfig, AutoTokenizer

    folders = source.folders
    layout = Layout.of(AutoConfig.from_pretrained(folders[-1], local_files_only=True, trust_remote_code=False))
    holder = next((folder for folder in folders if (folder / "tokenizer.json").is_file()), folders[-1])
    tokenizer = AutoTokenizer.from_pretrained(holder, local_files_only=True, trust_remote_code=False)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[layout.family])
    writer.add_name(source.name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    layout.describe(writer)
    describe_tokenizer(writer, tokenizer, layout.config.vocab_size, folders)
    return layout, writer


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> int:
    """Says what a tensor will be; returns its bytes."""
    stored = _type_of(shape, kind)
    row_bytes = gguf.quant_shape_to_byte_shape(shape, stored) if stored == gguf.GGMLQuantizationType.Q8_0 else None
    width = {gguf.GGMLQuantizationType.F32: 4, gguf.GGMLQuantizationType.F16: 2}.get(stored, 1)
    size = int(np.prod(row_bytes or shape)) * width
    dtype = np.dtype({1: np.uint8, 2: np.float16, 4: np.float32}[width])
    writer.add_tensor_info(name, row_bytes or shape, dtype, size, stored)
    return size


def _type_of(shape: tuple[int, ...], kind: str) -> Any:
    """ggml's type of a tensor: what has one row stays as it is, and what Q8_0 can't divide into blocks is F16."""
    types = gguf.GGMLQuantizationType
    if len(shape) < 2 or kind == "F32":
        return types.F32
    if kind == "Q8_0" and shape[-1] % gguf.GGML_QUANT_SIZES[types.Q8_0][0] == 0:
        return types.Q8_0
    return types.F16


def _encoded(tensor: Array, kind: str) -> Array:
    stored = _type_of(tensor.shape, kind)
    tensor = np.ascontiguousarray(tensor, np.float32)
    if stored == gguf.GGMLQuantizationType.F32:
        return tensor
    if stored == gguf.GGMLQuantizationType.F16:
        return np.clip(tensor, -LARGEST_F16, LARGEST_F16).astype(np.float16)
    quantised: Array = gguf.quantize(tensor, stored)
    return quantised


def _quantised(source: Path, kind: str) -> Path:
    """What llama.cpp makes of a file. Raises JobFaultError where it fails."""
    require_space(source.parent, source.stat().st_size)
    target = source.with_name("second.gguf")
    threads = os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))
    program = (sys.executable, "-m", "training.fetch.gguf_quantise")
    done = subprocess.run([*program, str(source), str(target), str(int(FILE_TYPES[kind])), threads], check=False)
    if done.returncode or not target.is_file():
        raise JobFaultError("export_failed", f"llama.cpp could not make {kind} of the model.", "Look into the log.")
    return target
