"""Whether a run fits into what is free, and which settings would. Runs in the web process; knows no torch.

The estimate is taken to be right within a fifth (`bench/estimate.py`), so what fills more than that is called tight.
A batch that is made smaller is accumulated as often as it takes: the effective batch never changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from training.config.schema import TrainerConfig
from training.estimate.memory import Place, estimate_memory
from training.estimate.shape import ModelShape

Verdict = Literal["fits", "tight", "does not fit", "unknown"]
MARGIN = 1.2
LARGEST_BATCH = 4096
LENGTH_STEP = 64
WAYS_SHOWN = 3


@dataclass(frozen=True)
class Way:
    """Settings (by their paths) with which the run would fit, and the bytes that it would hold then."""

    settings: dict[str, Any]
    peak_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As plain figures."""
        return asdict(self)


@dataclass(frozen=True)
class Need:
    """All that the peak of a run depends on."""

    shape: ModelShape
    config: TrainerConfig
    longest_tokens: int
    place: Place

    def peak(self, config: TrainerConfig | None = None) -> int:
        """Bytes a device, with this configuration or another."""
        return estimate_memory(self.shape, config or self.config, self.longest_tokens, self.place).peak


def judge(peak_bytes: int, free_bytes: int | None) -> Verdict:
    """How what is needed stands to what is free."""
    if free_bytes is None:
        return "unknown"
    if peak_bytes * MARGIN <= free_bytes:
        return "fits"
    return "tight" if peak_bytes <= free_bytes else "does not fit"


def largest_batch(need: Need, free_bytes: int) -> int | None:
    """The most examples at once that fit, other settings as they are; None where not even one does."""
    return _largest(LARGEST_BATCH, lambda batch: _fits(need, with_batch(need.config, batch, 1), free_bytes)) or None


def ways_to_fit(need: Need, free_bytes: int) -> list[Way]:
    """What would make the run fit, the least change first; none where nothing does."""
    found = []
    for settings, config in _candidates(need, free_bytes):
        peak = need.peak(config)
        if peak * MARGIN <= free_bytes:
            found.append(Way(settings, peak))
        if len(found) == WAYS_SHOWN:
            break
    return found


def with_batch(config: TrainerConfig, batch: int, accumulated: int) -> TrainerConfig:
    """The configuration with another batch size a device and other accumulation."""
    hyper = replace(config.hyperparams, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated)
    return replace(config, hyperparams=hyper)


def _candidates(need: Need, free_bytes: int) -> Iterator[tuple[dict[str, Any], TrainerConfig]]:
    config = need.config
    sparing = replace(config, model=replace(config.model, gradient_checkpointing=True))
    spared = {"model.gradient_checkpointing": True}
    is_new = not config.model.gradient_checkpointing
    yield from _smaller_batch(need, config, {}, free_bytes)
    if is_new:
        yield spared, sparing
        yield from _smaller_batch(need, sparing, spared, free_bytes)
    adapter = replace(sparing, model=replace(sparing.model, method="lora"))
    if config.model.method == "full":
        lora = {"model.method": "lora", **(spared if is_new else {})}
        yield lora, adapter
        yield from _smaller_batch(need, adapter, lora, free_bytes)
    yield from _shorter(need, sparing, spared if is_new else {}, free_bytes)
    if need.place.device == "cuda" and not config.model.load_in_4bit:
        quantized = replace(adapter, model=replace(adapter.model, load_in_4bit=True, load_in_8bit=False))
        yield from _smaller_batch(
            need, quantized, {"model.method": "lora", "model.load_in_4bit": True, **spared}, free_bytes
        )


def _smaller_batch(
    need: Need, config: TrainerConfig, settings: dict[str, Any], free_bytes: int
) -> Iterator[tuple[dict[str, Any], TrainerConfig]]:
    """The largest smaller batch that divides the effective one and fits."""
    hyper = config.hyperparams
    effective = hyper.per_device_train_batch_size * hyper.gradient_accumulation_steps
    for batch in range(hyper.per_device_train_batch_size - 1, 0, -1):
        if effective % batch:
            continue
        smaller = with_batch(config, batch, effective // batch)
        if _fits(need, smaller, free_bytes):
            yield (
                {
                    **settings,
                    "hyperparams.per_device_train_batch_size": batch,
                    "hyperparams.gradient_accumulation_steps": effective // batch,
                },
                smaller,
            )
            return


def _shorter(
    need: Need, config: TrainerConfig, settings: dict[str, Any], free_bytes: int
) -> Iterator[tuple[dict[str, Any], TrainerConfig]]:
    """The longest examples that fit one at a time; longer ones are cut off."""
    hyper = config.hyperparams
    effective = hyper.per_device_train_batch_size * hyper.gradient_accumulation_steps
    alone = with_batch(config, 1, effective)
    top = min(hyper.max_length, need.longest_tokens) // LENGTH_STEP
    steps = _largest(top, lambda steps: _fits(need, _cut(alone, steps * LENGTH_STEP), free_bytes))
    if 0 < steps < top:
        changed = {**settings, "hyperparams.max_length": steps * LENGTH_STEP}
        changed["hyperparams.per_device_train_batch_size"] = 1
        changed["hyperparams.gradient_accumulation_steps"] = effective
        yield changed, _cut(alone, steps * LENGTH_STEP)


def _cut(config: TrainerConfig, max_length: int) -> TrainerConfig:
    return replace(config, hyperparams=replace(config.hyperparams, max_length=max_length))


def _largest(top: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `top` that fits; 0 where not even 1 does. Where one fits, all smaller ones must."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _fits(need: Need, config: TrainerConfig, free_bytes: int) -> bool:
    return need.peak(config) * MARGIN <= free_bytes
