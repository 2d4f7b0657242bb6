"""Finding a profile's processors by the name that it gives: the one way to them, for serving and for training samples.

A built-in profile's processors are a module beside this one. A package of the user's adds its own by an
entry point of the group `pilothouse.processors` that names a sequence of `ProcessorFactory`. Loading runs no model.
"""

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points

from inference.processors.base import ProcessorFactory

ENTRY_POINT_GROUP = "pilothouse.processors"
BUILT_IN = ("emoji_think", "plain")


class UnknownProcessorsError(LookupError):
    """No processors are known for a profile."""


def load_processors(name: str | None) -> list[ProcessorFactory]:
    """The processors that a profile names, in the order in which they work; None names none.

    Raises UnknownProcessorsError.
    """
    if name is None:
        return []
    if name in BUILT_IN:
        module = importlib.import_module(f"inference.processors.{name}")
        return list(module.FACTORIES)
    for entry in entry_points(group=ENTRY_POINT_GROUP, name=name):
        factories: Sequence[ProcessorFactory] = entry.load()
        return list(factories)
    known = sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))})
    raise UnknownProcessorsError(f"no logits processors of the name {name!r}; known: {', '.join(known)}")
