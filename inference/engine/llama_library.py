"""llama.cpp's library, as far as the engine needs it: a loaded file, tokens in, logits out. Runs in the inference
process.

The one gate to `llama_cpp` there. All sequences share one cache of keys and values (`cells` tokens of them); a token
that two sequences have in common is there once. Memory is taken when the model is loaded, and never grows.
"""

import ctypes
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inference.engine.failures import CacheFullError
from inference.progress import NO_REPORT, Report
from monitoring.attempt import JobFaultError

logger = logging.getLogger(__name__)

CACHE_FULL = 1
LOGGED = {3: logging.WARNING, 4: logging.ERROR}
"""ggml's levels that are worth a line."""

GGML_TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}
"""ggml's numbers of the types that keys and values may have."""

EXPECTED = "n_ctx_seq"
"""In the warnings that the cells are more, or fewer, than the model's context: all sequences share them."""


@dataclass(frozen=True)
class State:
    """What was computed for the `tokens` tokens of one sequence."""

    tokens: int
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    """How much is made room for: `cells` tokens in all, of `token_bytes` each, `sequences` beside each other, `piece`
    tokens in one call, with logits behind one of each sequence."""

    cells: int
    token_bytes: int
    sequences: int
    piece: int


def installed() -> Any:
    """The library's module. Raises JobFaultError where it is not installed or can't be loaded."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # the latter two: its shared library is at fault
        raise JobFaultError(
            "engine_missing",
            f"The engine llama_cpp is not installed on this host ({error}).",
            "Run bin/up --extras llama_cpp.",
        ) from error
    llama_cpp.llama_log_set(_log_callback(llama_cpp), None)
    return llama_cpp


@functools.cache
def _log_callback(library: Any) -> Any:
    """Takes the library's warnings and errors to our log: by itself it prints pages for each model. It must live as
    long as the library."""

    def say(level: int, text: bytes, _data: Any) -> None:
        if level in LOGGED and (words := text.decode(errors="replace").strip()) and EXPECTED not in words:
            logger.log(LOGGED[level], "llama.cpp: %s", words)

    return library.llama_log_callback(say)


class LlamaLibrary:
    """A model from a GGUF file in memory. One thread at a time may use it."""

    def __init__(
        self, file: Path, shape: Shape, report: Report = NO_REPORT, *, on_gpu: bool, cache_dtype: str, threads: int
    ) -> None:
        """Raises JobFaultError where the file can't be read or the memory doesn't suffice."""
        self._lib = lib = installed()
        self.file = file
        self.shape = shape
        self.token_bytes = shape.token_bytes
        lib.llama_backend_init()
        self._model: Any = self._load(report, on_gpu=on_gpu)
        if not self._model:
            raise JobFaultError(
                "model_unreadable", f"llama.cpp can't load {file.name}.", "Look into the log, and export it again."
            )
        self._context: Any = lib.llama_init_from_model(self._model, self._settings(cache_dtype, threads))
        if not self._context:
            lib.llama_model_free(self._model)
            raise JobFaultError(
                "out_of_memory",
                f"There is no memory for the keys and values of {shape.cells} tokens.",
                "Serve it with a smaller max_batch or max_model_length.",
            )
        self._memory = lib.llama_get_memory(self._context)
        self.vocabulary_size: int = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._batch = lib.llama_batch_init(shape.piece, 0, 1)
        self._tokens, self._positions, self._counts, self._wanted = (
            np.ctypeslib.as_array(column, (shape.piece,))
            for column in (self._batch.token, self._batch.pos, self._batch.n_seq_id, self._batch.logits)
        )
        self._counts[:] = 1

    def _load(self, report: Report, *, on_gpu: bool) -> Any:
        """Reads the file, telling the bytes; what is raised meanwhile (a stop) breaks it off."""
        settings, size, raised = self._lib.llama_model_default_params(), self.file.stat().st_size, []
        settings.n_gpu_layers = -1 if on_gpu else 0

        def tell(share: float, _data: Any) -> bool:
            try:
                report.amount(round(share * size), size, "bytes")
            except BaseException as error:  # it can't go through the library's frames
                raised.append(error)
            return not raised

        settings.progress_callback = callback = self._lib.llama_progress_callback(tell)
        model = self._lib.llama_model_load_from_file(str(self.file).encode(), settings)
        del callback  # it must live until here
        if raised:
            if model:
                self._lib.llama_model_free(model)
            raise raised[0]
        return model

    def _settings(self, cache_dtype: str, threads: int) -> Any:
        settings = self._lib.llama_context_default_params()
        settings.n_ctx = self.shape.cells
        settings.n_batch = settings.n_ubatch = self.shape.piece
        settings.n_seq_max = self.shape.sequences
        settings.n_outputs_max = self.shape.sequences  # else there is room for a whole piece of logits
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = GGML_TYPES[cache_dtype]
        settings.kv_unified = True  # else each sequence has its own share of the cells, whether it needs it or not
        settings.no_perf = True
        return settings

    def compute(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[bool]
    ) -> torch.Tensor:
        """Takes tokens, each of its sequence at its position, and returns the logits [wanted, vocabulary] behind those
        that are wanted, in their order: they hold until the next call.

        Raises CacheFullError where the cells don't suffice (nothing has changed then), RuntimeError.
        """
        count = len(tokens)
        self._batch.n_tokens = count
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._wanted[:count] = wanted
        for place, sequence in enumerate(sequences):
            self._batch.seq_id[place][0] = sequence
        status = self._lib.llama_decode(self._context, self._batch)
        if status == CACHE_FULL:
            raise CacheFullError
        if status:
            raise RuntimeError(f"llama.cpp's llama_decode ended with status {status}")
        rows = sum(wanted)
        if not rows:
            return torch.empty(0, self.vocabulary_size)
        logits = self._lib.llama_get_logits(self._context)
        return torch.from_numpy(np.ctypeslib.as_array(logits, (rows, self.vocabulary_size)))

    def share(self, source: int, sequence: int) -> None:
        """Lets a sequence begin with all that another has."""
        self._lib.llama_memory_seq_cp(self._memory, source, sequence, -1, -1)

    def forget(self, sequence: int, first: int = 0) -> None:
        """Takes a sequence's tokens from position `first` on out of the cache."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, first, -1)

    def state(self, sequence: int, tokens: int) -> State:
        """A copy of what was computed for a sequence, which has `tokens` tokens. Raises MemoryError where it can't be
        made."""
        data = np.empty(self._lib.llama_state_seq_get_size(self._context, sequence), np.uint8)
        if self._lib.llama_state_seq_get_data(self._context, _bytes(data), data.size, sequence) != data.size:
            raise MemoryError
        return State(tokens, data)

    def restore(self, sequence: int, state: State) -> None:
        """Fills an empty sequence with what was computed for another. Raises CacheFullError where there is no room."""
        if not self._lib.llama_state_seq_set_data(self._context, _bytes(state.data), state.data.size, sequence):
            self.forget(sequence)
            raise CacheFullError

    def close(self) -> None:
        """Frees the memory, once; it is of no use from then on."""
        if self._model is None:
            return
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)
        self._model = None


def _bytes(data: npt.NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
