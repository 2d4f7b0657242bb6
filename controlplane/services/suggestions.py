"""Which values a sweep tries next: the one place where Optuna is met. Runs in the web process, in a duty's thread.

Optuna keeps nothing here: for each question the study is made anew from the trials in our own data base, and the
sampler is seeded by the sweep's seed and the trial's number. So a restart loses nothing, and asks what would have been
asked. Optuna is imported with the first question: most web processes never ask one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.models.run_sweeps import SweepMethod, TrialState
from controlplane.services.sweep_space import Dimension

STARTUP_TRIALS = (3, 10)
"""TPE draws at random at first: a third of the trials, within these bounds."""

SEED_STRIDE = 100_003
MAX_SEED = 2**32


@dataclass(frozen=True)
class Tried:
    """An earlier trial; `value` is None unless it is done."""

    params: dict[str, Any]
    state: str
    value: float | None


def suggest(
    dimensions: Sequence[Dimension], method: str, tried: Sequence[Tried], *, seed: int, max_trials: int
) -> dict[str, Any]:
    """The values of the next trial, by path. `tried` holds every earlier trial, in order."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {dimension.field: _distribution(dimension) for dimension in dimensions}
    sampler = _sampler(dimensions, method, seed=seed, number=len(tried), max_trials=max_trials)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    states = {
        TrialState.RUNNING: optuna.trial.TrialState.RUNNING, TrialState.DONE: optuna.trial.TrialState.COMPLETE,
        TrialState.FAILED: optuna.trial.TrialState.FAIL,
    }  # fmt: skip
    for trial in tried:
        study.add_trial(
            optuna.trial.create_trial(
                state=states[TrialState(trial.state)], params=trial.params, distributions=distributions,
                value=trial.value if trial.state == TrialState.DONE else None,
            )
        )  # fmt: skip
    params: dict[str, Any] = study.ask(distributions).params
    return params


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions

    if dimension.values:
        return distributions.CategoricalDistribution(dimension.values)
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.is_whole:
        return distributions.IntDistribution(int(low or 0), int(high or 0), dimension.log, int(step or 1))
    return distributions.FloatDistribution(low or 0.0, high or 0.0, dimension.log, step)


def _sampler(dimensions: Sequence[Dimension], method: str, *, seed: int, number: int, max_trials: int) -> Any:
    from optuna import samplers

    if method == SweepMethod.GRID:
        # The order of a grid is shuffled by its seed, so that is the same for all of its trials.
        return samplers.GridSampler({item.field: item.values for item in dimensions}, seed=seed)
    own_seed = (seed * SEED_STRIDE + number) % MAX_SEED
    if method == SweepMethod.RANDOM:
        return samplers.RandomSampler(seed=own_seed)
    few, many = STARTUP_TRIALS
    startup = max(few, min(many, max_trials // 3))
    return samplers.TPESampler(seed=own_seed, n_startup_trials=startup, constant_liar=True)
