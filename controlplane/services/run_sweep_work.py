"""Carries sweeps of runs on: tells what runs came to, asks for the next values, queues their runs. A duty's thread.

Nothing is kept between two looks at the data base, so a restart in the middle of a sweep goes on where it was.
"""

import logging
import math
from collections.abc import Iterable

from django.db import transaction
from django.utils import timezone

from controlplane.errors import PilothouseError
from controlplane.models import Run, RunSweep, RunTrial
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import Status
from controlplane.models.run_sweeps import SweepMetric, SweepState, TrialState
from controlplane.services import curve_reading, run_sweeps, runs, suggestions, sweep_space
from controlplane.services.access import audit

log = logging.getLogger(__name__)
LIVE = (Status.PENDING, Status.RUNNING, Status.PAUSED)
LAST_POINTS = 10
"""The training loss of a run is the mean of so many last points: a single step's jumps."""

MAX_POINTS = 20_000
FAILURES_IN_A_ROW = 3
"""After so many the sweep pauses: what is wrong is likely wrong for all."""


def work() -> None:
    """The duty."""
    for trial in RunTrial.objects.filter(state=TrialState.RUNNING).select_related("sweep", "run__job"):
        if trial.run is None or trial.run.job.status not in LIVE:
            _settle(trial)
    for trial in RunTrial.objects.filter(state=TrialState.FAILED, run__job__status__in=LIVE).select_related("sweep"):
        _reopen(trial)
    for sweep in RunSweep.objects.filter(state=SweepState.RUNNING).select_related("dataset", "model"):
        try:
            _carry_on(sweep)
        except Exception:  # one sweep's trouble is not the others': it is looked at again in the next round
            log.exception("sweep %s can't be carried on", sweep.pk)


# --- What runs came to ------------------------------------------------------------------------------------------------


def _settle(trial: RunTrial) -> None:
    """Notes how a trial has ended; pauses the sweep when one after the other fails."""
    value, error = _outcome(trial.run, trial.sweep.metric)
    state = TrialState.DONE if value is not None else TrialState.FAILED
    with transaction.atomic():
        rows = RunTrial.objects.filter(pk=trial.pk, state=TrialState.RUNNING)
        if not rows.update(state=state, value=value, error=error):
            return
        audit(SYSTEM, "run_sweep.told", f"sweep {trial.sweep_id}", trial=trial.number, state=state, value=value)
        if state == TrialState.FAILED:
            _pause_after_failures(trial.sweep, error)
        run_sweeps.announce(run_sweeps.get(trial.sweep_id))


def _outcome(run: Run | None, metric: str) -> tuple[float | None, str]:
    """The trial's value, or None and why there is none."""
    if run is None:
        return None, "Its run was deleted before it was read."
    if run.job.status != Status.DONE:
        told = (run.job.error or {}).get("message", "")
        return None, told or f"Its run was {run.job.status}."
    value = value_of(run, metric)
    if value is None:
        return None, f"Its run reported no {metric}."
    return value, ""


def value_of(run: Run, metric: str) -> float | None:
    """What a finished run's model is worth: the last evaluation (the best with early stopping, which publishes that
    state), or the mean of the last training losses. None where that is no number.
    """
    points = curve_reading.read(run, [metric], None, MAX_POINTS)[metric]["value"]
    values = [float(point) for point in points]  # "NaN" and its likes are what float() reads too
    if metric == SweepMetric.LOSS:
        values = values[-LAST_POINTS:]
        value = sum(values) / len(values) if values else math.nan
    elif run.config["hyperparams"]["early_stopping_patience"]:
        value = min((one for one in values if math.isfinite(one)), default=math.nan)
    else:
        value = values[-1] if values else math.nan
    return value if math.isfinite(value) else None


def _pause_after_failures(sweep: RunSweep, error: str) -> None:
    ended = sweep.trials.exclude(state=TrialState.RUNNING).order_by("-number")[:FAILURES_IN_A_ROW]
    states = [trial.state for trial in ended]
    if states == [TrialState.FAILED] * FAILURES_IN_A_ROW:
        _pause(sweep, f"The last {FAILURES_IN_A_ROW} trials failed. The last one said: {error}")


def _pause(sweep: RunSweep, reason: str) -> None:
    if RunSweep.objects.filter(pk=sweep.pk, state=SweepState.RUNNING).update(state=SweepState.PAUSED, reason=reason):
        audit(SYSTEM, "run_sweep.pause", f"sweep {sweep.pk}", reason=reason)


def _reopen(trial: RunTrial) -> None:
    """A failed run that somebody has put back into the queue counts again."""
    with transaction.atomic():
        RunTrial.objects.filter(pk=trial.pk).update(state=TrialState.RUNNING, error="")
        run_sweeps.announce(run_sweeps.get(trial.sweep_id))


# --- The next run -----------------------------------------------------------------------------------------------------


def _carry_on(sweep: RunSweep) -> None:
    begun = sweep.trials.count()
    live = sweep.trials.filter(state=TrialState.RUNNING).count()
    room = min(sweep.max_parallel - live, sweep.max_trials - begun)
    for _ in range(room):
        if not _start(sweep):
            return
    if room <= 0 and not live:
        _end(sweep)


def _end(sweep: RunSweep) -> None:
    with transaction.atomic():
        rows = RunSweep.objects.filter(pk=sweep.pk, state=SweepState.RUNNING)
        if rows.update(state=SweepState.DONE, ended_at=timezone.now()):
            audit(SYSTEM, "run_sweep.done", f"sweep {sweep.pk}")
            run_sweeps.announce(run_sweeps.get(sweep.pk))


def _start(sweep: RunSweep) -> bool:
    """Queues the next run; a refusal pauses the sweep and says why."""
    earlier = list(sweep.trials.order_by("number"))
    params = _next_params(sweep, earlier)
    number = len(earlier) + 1
    try:
        with transaction.atomic():
            if not RunSweep.objects.select_for_update().filter(pk=sweep.pk, state=SweepState.RUNNING).exists():
                return False
            run = runs.create(
                Actor(name=sweep.created_by, role=Role.USE), name=f"{sweep.name} {number}", dataset=sweep.dataset_id,
                model=sweep.model.name, profile=sweep.profile, priority=sweep.priority,
                config=sweep_space.merged(sweep.config, params),
            )  # fmt: skip
            RunTrial.objects.create(sweep=sweep, number=number, params=params, run=run)
            audit(SYSTEM, "run_sweep.trial", f"sweep {sweep.pk}", trial=number, run=run.pk)
            run_sweeps.announce(run_sweeps.get(sweep.pk))
    except PilothouseError as error:
        with transaction.atomic():
            _pause(sweep, f"The next run can't be started: {error.message}")
            run_sweeps.announce(run_sweeps.get(sweep.pk))
        return False
    return True


def _next_params(sweep: RunSweep, earlier: Iterable[RunTrial]) -> dict[str, object]:
    dimensions = [sweep_space.Dimension.from_json(item) for item in sweep.space]
    tried = [suggestions.Tried(trial.params, trial.state, trial.value) for trial in earlier]
    return suggestions.suggest(dimensions, sweep.method, tried, seed=sweep.seed, max_trials=sweep.max_trials)
