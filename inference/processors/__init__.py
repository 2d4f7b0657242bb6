"""The gate to the profiles' logits processors: `load_processors` and the types it speaks in."""

from inference.processors.base import ProcessorFactory, Progress, RowProcessor, Vocabulary
from inference.processors.gate import UnknownProcessorsError, load_processors

__all__ = ["ProcessorFactory", "Progress", "RowProcessor", "UnknownProcessorsError", "Vocabulary", "load_processors"]
