"""The learning rate of a run that goes on with another one than its checkpoint was written with. Training process.

Optimizer and schedule bring their own rate back from a checkpoint, so that of the settings would count for nothing.
"""

from typing import Any


def take_learning_rate(optimizer: Any, schedule: Any, learning_rate: float) -> bool:
    """Gives a restored optimizer and its (multiplicative) schedule another peak; its course stays. Says whether it was
    another one.
    """
    inner = getattr(schedule, "scheduler", schedule)  # accelerate wraps it
    if all(base == learning_rate for base in inner.base_lrs):
        return False
    shares = [now / base for now, base in zip(inner.get_last_lr(), inner.base_lrs, strict=True)]
    inner.base_lrs = [learning_rate] * len(shares)
    inner._last_lr = [learning_rate * share for share in shares]
    for group, rate in zip(optimizer.param_groups, inner._last_lr, strict=True):
        group["initial_lr"], group["lr"] = learning_rate, rate
    return True
