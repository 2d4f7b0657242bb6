"""What a benchmark ran on, and how its figures are summed up."""

import os
import platform
import random
import statistics
from collections.abc import Sequence
from importlib.metadata import version

import psutil

RESAMPLES = 5000


def described() -> str:
    """One line: processor count, memory, versions."""
    memory = psutil.virtual_memory().total / 2**30
    names = ("torch", "transformers", "django")
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f", load {os.getloadavg()[0]:.1f}"
    )


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """A bootstrap interval of the median (percentile method, fixed seed)."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    low = int((1 - share) / 2 * RESAMPLES)
    return medians[low], medians[RESAMPLES - 1 - low]
