"""What the estimate of a run takes and answers."""

from typing import Any

from ninja import Field, Schema
from pydantic import ConfigDict


class AskEstimate(Schema):
    """As for a run: what it learns from and starts with, and any subset of TrainerConfig."""

    model_config = ConfigDict(extra="forbid")

    dataset: int | str
    model: str = ""
    profile: str = "plain"
    config: dict[str, Any] = Field(default_factory=dict)


class Memory(Schema):
    """Bytes a device. `peak` is less than the sum: not all of it is held at once."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int
    peak: int
    batch: int
    tokens: int


class FreeMemory(Schema):
    """Where most is free by the last readings. `gpu` None: the host's own memory; all None: nobody knows."""

    host: str | None
    gpu: str | None
    free_bytes: int | None
    total_bytes: int | None


class Way(Schema):
    """Settings by their paths with which the run fits; the effective batch stays."""

    settings: dict[str, Any]
    peak_bytes: int


class TimeEstimate(Schema):
    """`seconds` None: no earlier run of that model and method on the host tells."""

    steps: int | None
    seconds: float | None
    measured_by_run: int | None


class Estimate(Schema):
    """`verdict`: fits, tight, does not fit, unknown. `largest_batch`: examples at once that fit, other settings as
    they are; None where not even one does, or nobody knows what is free."""

    verdict: str
    reason: str
    memory: Memory | None
    free: FreeMemory
    largest_batch: int | None
    ways: list[Way]
    notes: list[str]
    time: TimeEstimate
