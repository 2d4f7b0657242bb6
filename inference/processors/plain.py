"""The profile `plain` leaves the logits alone."""

from inference.processors.base import ProcessorFactory

FACTORIES: tuple[ProcessorFactory, ...] = ()
