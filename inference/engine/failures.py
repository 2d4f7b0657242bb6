"""What a fault in the engine's thread is to a client, and how memory comes back after one. Runs in the inference
process."""

import gc
import traceback

import torch

from inference.engine.base import EngineError, GenerationFailedError, OutOfMemoryError


class CacheFullError(MemoryError):
    """The room for keys and values that was taken when the model was loaded is full. To give back other memory, such as
    what is kept for later requests, is of no help."""


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has an exception of its own; the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def give_memory_back(error: Exception) -> None:
    """Frees what nobody holds any more; the frames that an error came through hold tensors until they are cleared."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def as_engine_error(error: Exception) -> EngineError:
    """The error that the request at fault ends with."""
    if isinstance(error, EngineError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "The device has no memory left for this request. Shorten it, or serve with a smaller max_batch "
            "or max_model_length."
        )
    return GenerationFailedError(f"The generation failed: {type(error).__name__}: {error}")
