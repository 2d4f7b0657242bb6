"""Sweeps of training runs: made, read, paused, resumed, stopped. Runs in the web process.

Which run comes next and what the earlier ones came to is `services.run_sweep_work`'s, a duty.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.legible import is_legible
from controlplane.live.announce import publish
from controlplane.models import Run, RunSweep, RunTrial
from controlplane.models.access import Actor, Role
from controlplane.models.run_sweeps import SweepMethod, SweepMetric, SweepState, TrialState
from controlplane.moments import iso
from controlplane.services import datasets, jobs, models, runs, sweep_space
from controlplane.services.access import audit

TOPIC = "run-sweeps"
MAX_TRIALS = (1, 1000)
MAX_PARALLEL = (1, 64)
MAX_SEED = 2**31 - 1
STOP_MODES = ("finish", "now")


# --- Made and steered -------------------------------------------------------------------------------------------------


def create(
    actor: Actor,
    *,
    name: str,
    dataset: int | str,
    model: str,
    space: Sequence[Mapping[str, Any]],
    method: str = SweepMethod.TPE,
    metric: str = SweepMetric.EVAL_LOSS,
    max_trials: int | None = None,
    max_parallel: int = 1,
    seed: int = 42,
    profile: str = "plain",
    priority: str = "normal",
    config: dict[str, Any] | None = None,
) -> RunSweep:
    """Begins a sweep; its runs are queued within seconds. Where anything is wrong nothing is created.

    `max_trials` None: the whole grid, or 20. Raises InvalidInputError.
    """
    actor.require(Role.USE)
    config = config or {}
    _check_words(name, method, metric, max_parallel=max_parallel, seed=seed, max_trials=max_trials)
    jobs.parse_priority(priority)
    whole = runs.check(dataset=dataset, model=model, profile=profile, config=config)
    _check_metric(metric, whole)
    if whole["output"]["register_as"]:
        message = "Leave output.register_as out: each run of a sweep makes a model of its own."
        raise InvalidInputError(message, (FieldFault("config.output.register_as", message),))
    if whole["model"].get("chain"):
        message = "Leave model.chain out: runs that build on one another can't be compared."
        raise InvalidInputError(message, (FieldFault("config.model.chain", message),))
    dimensions = sweep_space.check(space, method, config)
    with transaction.atomic():
        sweep = RunSweep.objects.create(
            name=name.strip(), method=method, metric=metric, space=[item.to_json() for item in dimensions],
            config=config, dataset=datasets.get(dataset), model=models.get(model), profile=profile, priority=priority,
            max_trials=_count(method, max_trials, dimensions), max_parallel=max_parallel, seed=seed,
            created_by=actor.name,
        )  # fmt: skip
        audit(actor, "run_sweep.create", f"sweep {sweep.pk}", method=method, fields=sweep.fields)
        announce(sweep)
    return sweep


def _count(method: str, asked: int | None, dimensions: Sequence[sweep_space.Dimension]) -> int:
    if method != SweepMethod.GRID:
        return asked or 20
    size = sweep_space.grid_size(dimensions)
    return min(asked or size, size)


def _check_words(
    name: str, method: str, metric: str, *, max_trials: int | None, max_parallel: int, seed: int
) -> None:  # fmt: skip
    name = name.strip()
    if not 1 <= len(name) <= 150 or not is_legible(name):
        raise _refused("name", "A sweep needs a name of 1 to 150 printable characters.")
    if method not in SweepMethod.values:
        raise _refused("method", f"There is no method {method!r}: choose {', '.join(SweepMethod.values)}.")
    if metric not in SweepMetric.values:
        raise _refused("metric", f"There is no metric {metric!r}: choose {', '.join(SweepMetric.values)}.")
    if max_trials is not None and not MAX_TRIALS[0] <= max_trials <= MAX_TRIALS[1]:
        raise _refused("max_trials", f"A sweep has {MAX_TRIALS[0]} to {MAX_TRIALS[1]:,} trials, not {max_trials}.")
    if not MAX_PARALLEL[0] <= max_parallel <= MAX_PARALLEL[1]:
        raise _refused("max_parallel", f"{MAX_PARALLEL[0]} to {MAX_PARALLEL[1]} runs at a time, not {max_parallel}.")
    if not 0 <= seed <= MAX_SEED:
        raise _refused("seed", f"The seed must lie between 0 and {MAX_SEED}.")


def _check_metric(metric: str, whole: dict[str, Any]) -> None:
    """A run without an evaluation set would never report what the sweep waits for."""
    if metric == SweepMetric.EVAL_LOSS and not whole["data"]["eval_dataset"] and not whole["data"]["eval_fraction"]:
        raise _refused(
            "metric",
            "The runs would have no evaluation set, so no eval_loss: set data.eval_fraction, or take the metric loss.",
        )


def _refused(path: str, message: str) -> InvalidInputError:
    return InvalidInputError(message, (FieldFault(path, message),))


def pause(actor: Actor, sweep_id: int) -> RunSweep:
    """Starts no more runs until it is resumed; those that are there go on."""
    return _move(actor, sweep_id, "pause", (SweepState.RUNNING,), SweepState.PAUSED)


def resume(actor: Actor, sweep_id: int) -> RunSweep:
    """Starts runs again."""
    return _move(actor, sweep_id, "resume", (SweepState.PAUSED,), SweepState.RUNNING)


def stop(actor: Actor, sweep_id: int, mode: str = "finish") -> RunSweep:
    """Ends a sweep for good: `finish` lets the runs that are there go on, `now` cancels them."""
    if mode not in STOP_MODES:
        raise _refused("mode", f"There is no stop mode {mode!r}: choose finish or now.")
    sweep = _move(actor, sweep_id, "stop", (SweepState.RUNNING, SweepState.PAUSED), SweepState.STOPPED)
    if mode == "now":
        for trial in sweep.trials.filter(state=TrialState.RUNNING).select_related("run__job"):
            if trial.run is not None and not trial.run.job.has_ended:
                jobs.cancel(actor, trial.run.job_id)
    return sweep


def _move(actor: Actor, sweep_id: int, action: str, sources: Sequence[str], to: str) -> RunSweep:
    sweep = get(sweep_id)
    actor.require_owner(f"Sweep {sweep.pk}", sweep.created_by)
    ended = timezone.now() if to == SweepState.STOPPED else None
    with transaction.atomic():
        rows = RunSweep.objects.filter(pk=sweep_id, state__in=sources)
        if not rows.update(state=to, reason="", ended_at=ended):
            raise ConflictError(f"Sweep {sweep_id} is {sweep.state}: there is nothing to {action}.")
        audit(actor, f"run_sweep.{action}", f"sweep {sweep_id}")
        announce(get(sweep_id))
    return get(sweep_id)


def delete(actor: Actor, sweep_id: int) -> None:
    """Takes a sweep that has ended off the books; its runs and their models stay."""
    sweep = get(sweep_id)
    actor.require_owner(f"Sweep {sweep.pk}", sweep.created_by)
    if not sweep.has_ended or sweep.trials.filter(state=TrialState.RUNNING).exists():
        raise ConflictError(f"Sweep {sweep_id} is still at work: stop it, and wait for the end of its runs.")
    with transaction.atomic():
        sweep.delete()
        audit(actor, "run_sweep.delete", f"sweep {sweep_id}", name=sweep.name)
        publish(TOPIC, "status", {"id": sweep_id, "gone": True})


# --- Read -------------------------------------------------------------------------------------------------------------


def get(sweep_id: int) -> RunSweep:
    """The sweep. Raises NotFoundError."""
    sweep = RunSweep.objects.select_related("dataset", "model").filter(pk=sweep_id).first()
    if sweep is None:
        raise NotFoundError(f"There is no sweep {sweep_id}.")
    return sweep


def best(sweep: RunSweep) -> RunTrial | None:
    """The trial with the smallest value so far; of equal ones the first."""
    done = [trial for trial in sweep.trials.all() if trial.value is not None and trial.state == TrialState.DONE]
    return min(done, key=lambda trial: (trial.value, trial.number), default=None)


def facts(sweep: RunSweep) -> dict[str, Any]:
    """A sweep without its trials, as the API and the live topic tell it."""
    states = [trial.state for trial in sweep.trials.all()]
    first = best(sweep)
    return {
        "id": sweep.pk, "name": sweep.name, "state": sweep.state, "reason": sweep.reason, "method": sweep.method,
        "metric": sweep.metric, "space": sweep.space, "config": sweep.config,
        "dataset": {"id": sweep.dataset_id, "name": sweep.dataset.name, "version": sweep.dataset.version},
        "model": sweep.model.name, "profile": sweep.profile, "priority": sweep.priority,
        "max_trials": sweep.max_trials, "max_parallel": sweep.max_parallel, "seed": sweep.seed,
        "counts": {state: states.count(state) for state in TrialState.values},
        "best": first.number if first else None, "best_value": first.value if first else None,
        "created_by": sweep.created_by, "created_at": sweep.created_at.isoformat(),
        "ended_at": iso(sweep.ended_at),
    }  # fmt: skip


def trials(sweep: RunSweep) -> list[dict[str, Any]]:
    """Every trial with what its run says now, in order."""
    first = best(sweep)
    return [
        {
            "number": trial.number, "params": trial.params, "state": trial.state, "value": trial.value,
            "error": trial.error, "is_best": first is not None and trial.pk == first.pk,
            "run_id": trial.run_id, "run_status": trial.run.job.status if trial.run else None,
            "step": trial.run.last_step if trial.run else None, "last": _last(trial.run, sweep.metric),
        }
        for trial in sweep.trials.select_related("run__job")
    ]  # fmt: skip


def _last(run: Run | None, metric: str) -> float | None:
    """The metric as the run last reported it."""
    value = run.last.get(metric) if run is not None else None
    return value if isinstance(value, (int, float)) else None


def announce(sweep: RunSweep) -> None:
    """Tells the topic what a sweep is now. Inside a transaction."""
    publish(TOPIC, "status", facts(sweep))
