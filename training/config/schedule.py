"""How many steps a run will take and what the learning rate is at each, before it starts.

Runs in every process; imports neither torch nor transformers. The formulas are those of `transformers.optimization`
(`get_scheduler` with its own defaults) and of its trainer's count of steps; a test compares them.
"""

import math
from dataclasses import dataclass

from training.config.schema import TrainerConfig

POLYNOMIAL_END = 1e-7
"""Where transformers' polynomial schedule ends, whatever its peak."""

MAX_POINTS = 240


@dataclass(frozen=True)
class Plan:
    """A run's examples and steps. `is_exact`: no row can be left out that only the run itself will find."""

    train_examples: int
    eval_examples: int
    effective_batch: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    epochs: float
    is_exact: bool


def plan(config: TrainerConfig, rows: int, *, duplicates: int = 0, eval_rows: int | None = None) -> Plan:
    """The steps of a run on a dataset of `rows` rows, of which `duplicates` are equal to an earlier one.

    `eval_rows`: how many another dataset has, where the run is evaluated on one.
    """
    hyper, data = config.hyperparams, config.data
    count = rows - duplicates if data.drop_duplicates else rows
    count = min(count, data.max_examples) if data.max_examples else count
    held = 0 if eval_rows is not None else held_out(count, data.eval_fraction)
    train = max(0, count - held)
    batch = hyper.per_device_train_batch_size * processes(config)
    batches = math.ceil(train / batch)
    steps = max(1, math.ceil(batches / hyper.gradient_accumulation_steps))
    total = hyper.max_steps if hyper.max_steps > 0 else math.ceil(hyper.num_train_epochs * steps)
    evaluated = eval_rows if eval_rows is not None else held
    limit = config.monitoring.eval_samples
    return Plan(
        train_examples=train,
        eval_examples=min(evaluated, limit) if limit else evaluated,
        effective_batch=batch * hyper.gradient_accumulation_steps,
        steps_per_epoch=steps,
        total_steps=total,
        warmup_steps=warmup_steps(config, total),
        epochs=total / steps,
        is_exact=data.min_tokens <= 1 and data.max_tokens == 0,
    )


def held_out(count: int, fraction: float) -> int:
    """How many of `count` examples are held out: at least one where a share was asked for, never all."""
    return min(max(1, round(count * fraction)), max(0, count - 1)) if fraction > 0 else 0


def processes(config: TrainerConfig) -> int:
    """How many processes share a step."""
    shared = config.environment.distributed != "none"
    return max(1, config.environment.gpus) * config.environment.num_nodes if shared else 1


def warmup_share(config: TrainerConfig) -> float:
    """The warm-up's share of all steps; below 1, since transformers takes 1 for a single step."""
    return min(config.hyperparams.warmup_ratio, 0.999999)


def warmup_steps(config: TrainerConfig, total_steps: int) -> int:
    """The steps of the warm-up."""
    return math.ceil(total_steps * warmup_share(config))


def learning_rate(config: TrainerConfig, step: int, total_steps: int) -> float:
    """The learning rate when `step` of `total_steps` steps are done, which is that of the next one."""
    hyper, warmup = config.hyperparams, warmup_steps(config, total_steps)
    kind = hyper.lr_scheduler_type
    if kind == "constant":
        return hyper.learning_rate
    if step < warmup:
        return hyper.learning_rate * (step / max(1, warmup))
    progress = (step - warmup) / max(1, total_steps - warmup)
    return hyper.learning_rate * _share(kind, progress, hyper.learning_rate)


def _share(kind: str, progress: float, peak: float) -> float:
    """The share of the peak after the warm-up; `progress` goes from 0 to 1."""
    match kind:
        case "constant_with_warmup":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - progress)
        case "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        case "cosine_with_restarts":
            return 0.0 if progress >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * (progress % 1.0))))
        case "polynomial":
            return ((peak - POLYNOMIAL_END) * max(0.0, 1.0 - progress) + POLYNOMIAL_END) / peak
    raise ValueError(f"There is no schedule {kind!r}.")


def curve(config: TrainerConfig, total_steps: int) -> tuple[list[int], list[float]]:
    """Steps done (from 0 to the last) and the learning rate there; at most MAX_POINTS and the end of the warm-up."""
    apart = max(1, math.ceil(total_steps / (MAX_POINTS - 2)))
    marks = {*range(0, total_steps + 1, apart), warmup_steps(config, total_steps), total_steps}
    steps = sorted(step for step in marks if step <= total_steps)
    return steps, [learning_rate(config, step, total_steps) for step in steps]
