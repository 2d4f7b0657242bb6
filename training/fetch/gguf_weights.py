"""The weights of a model, tensor by tensor, as they are read for an export. Runs in the `fetch` job.

A whole model is read from its files one tensor at a time, so that an export takes the memory of its largest tensor. An
adapter is merged into its base first, which takes the base's.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from monitoring.attempt import JobFaultError
from training.fetch.gguf_layout import Array


@dataclass(frozen=True)
class Weights:
    """The names of all tensors, their shapes, and how to read one as float32."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Array]


@contextlib.contextmanager
def open_weights(folder: Path, adapter: Path | None) -> Iterator[Weights]:
    """The weights of a whole model's folder, with an adapter merged into them where one is given.

    Raises JobFaultError `model_damaged`, and what loading a base raises.
    """
    if adapter is not None:
        yield _merged(folder, adapter)
        return
    with contextlib.ExitStack() as stack:
        where: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise JobFaultError(
                    "model_damaged", f"{path.name} can't be read: {error}.", "Fetch or copy the model again."
                ) from error
            for name in file.keys():  # noqa: SIM118 - not a mapping
                where[name] = file
                shapes[name] = tuple(file.get_slice(name).get_shape())
        yield Weights(shapes, lambda name: _as_array(where[name].get_tensor(name)))


def _merged(base: Path, adapter: Path) -> Weights:
    from training.models import merged_onto_whole_weights  # torch and peft, which a whole model needs not

    state = merged_onto_whole_weights(base, adapter).state_dict()
    return Weights({name: tuple(value.shape) for name, value in state.items()}, lambda name: _as_array(state[name]))


def _as_array(tensor: Any) -> Array:
    array: Array = tensor.float().numpy()
    return array
