"""Sweeps of training runs: what is refused, which runs come, what they came to, and that a restart loses nothing."""

from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError
from controlplane.models import AuditLine, Dataset, Job, LiveMessage, Run, RunSweep, RunTrial
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Status
from controlplane.models.run_sweeps import SweepState, TrialState
from controlplane.services import curves, datasets, jobs, models, run_sweep_work, run_sweeps, run_templates, runs
from tests.factories import make_dataset, make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
MARA = Actor("mara", Role.USE)
RATE = "hyperparams.learning_rate"
RANK = "model.lora_r"
GRID = [{"field": RATE, "values": [1e-4, 1e-3]}, {"field": RANK, "values": [4, 8, 16]}]
RANGES = [{"field": RATE, "low": 1e-5, "high": 1e-2, "log": True}, {"field": RANK, "low": 2, "high": 64}]


@pytest.fixture
def material(home: Path) -> dict[str, Any]:
    """A dataset and a model that are ready."""
    return {"dataset": make_dataset().pk, "model": make_model("starter").name}


def make_sweep(material: dict[str, Any], space: Any = GRID, method: str = "grid", **fields: Any) -> RunSweep:
    return run_sweeps.create(MARA, name="rates", space=space, method=method, **material, **fields)


def end(trial: RunTrial, loss: float | str | None, status: str = Status.DONE) -> None:
    """The trial's run ends as a real one does: points first, then the job's transitions."""
    run = trial.run
    assert run is not None
    with transaction.atomic():
        if loss is not None:
            curves.rewind(run, 0)  # a second attempt's first word is that it begins anew
            curves.append(run, "eval_loss", [(1, 9.0, 1.0), (2, float(loss), 2.0)])
        jobs.transition(run.job_id, Status.RUNNING, reason="test")
        error = {"code": "x", "message": "It broke.", "fix": ""} if status == Status.FAILED else None
        jobs.transition(run.job_id, status, reason="test", error=error)


def live(sweep: RunSweep) -> list[RunTrial]:
    return list(sweep.trials.filter(state=TrialState.RUNNING))


def play(sweep: RunSweep, loss_of: Any) -> list[dict[str, Any]]:
    """Lets a sweep run to its end; returns the parameters in the order in which they came."""
    for _ in range(sweep.max_trials + 1):
        run_sweep_work.work()
        for trial in live(sweep):
            end(trial, loss_of(trial.params))
    run_sweep_work.work()
    return [trial.params for trial in sweep.trials.all()]


# --- Which runs come --------------------------------------------------------------------------------------------------


def test_a_grid_makes_each_combination_once_and_marks_the_best(material: dict[str, Any]) -> None:
    sweep = make_sweep(material, max_parallel=2, config={"hyperparams": {"max_steps": 7}})
    assert sweep.max_trials == 6
    run_sweep_work.work()
    assert len(live(sweep)) == 2
    run_sweep_work.work()
    assert len(live(sweep)) == 2, "no more than max_parallel at a time"
    tried = play(sweep, lambda params: abs(params[RATE] - 1e-3) + params[RANK] / 100)
    assert sorted((params[RATE], params[RANK]) for params in tried) == [
        (rate, rank) for rate in (1e-4, 1e-3) for rank in (4, 8, 16)
    ]
    sweep.refresh_from_db()
    assert sweep.state == SweepState.DONE
    best = run_sweeps.best(sweep)
    assert best is not None
    assert best.params == {RATE: 1e-3, RANK: 4}
    assert best.value == pytest.approx(0.04)
    run = best.run
    assert run is not None
    assert (run.config["hyperparams"]["learning_rate"], run.config["hyperparams"]["max_steps"]) == (1e-3, 7)
    assert run.created_by == "mara"
    assert run_templates.settings_of(run) == {
        "hyperparams": {"learning_rate": 1e-3, "max_steps": 7}, "model": {"lora_r": 4},
    }  # fmt: skip


def test_trials_are_drawn_within_their_ranges(material: dict[str, Any]) -> None:
    tried = play(make_sweep(material, RANGES, "tpe", max_trials=4), lambda params: params[RANK])
    assert len(tried) == 4
    assert all(1e-5 <= params[RATE] <= 1e-2 and 2 <= params[RANK] <= 64 for params in tried)


def test_a_failed_run_does_not_count_and_a_retried_one_does_again(material: dict[str, Any]) -> None:
    sweep = make_sweep(material)
    run_sweep_work.work()
    (trial,) = live(sweep)
    end(trial, 0.5, Status.FAILED)
    run_sweep_work.work()
    trial.refresh_from_db()
    assert (trial.state, trial.value, trial.error) == (TrialState.FAILED, None, "It broke.")
    assert len(live(sweep)) == 1, "the next one comes"
    assert trial.run is not None
    jobs.retry(MARA, trial.run.job_id)
    run_sweep_work.work()
    trial.refresh_from_db()
    assert trial.state == TrialState.RUNNING
    end(trial, 0.25)
    run_sweep_work.work()
    trial.refresh_from_db()
    assert (trial.state, trial.value) == (TrialState.DONE, 0.25)


@pytest.mark.parametrize("loss", [None, "nan", "inf"])
def test_a_run_without_a_figure_has_failed(material: dict[str, Any], loss: str | None) -> None:
    sweep = make_sweep(material)
    run_sweep_work.work()
    (trial,) = live(sweep)
    end(trial, loss)
    run_sweep_work.work()
    trial.refresh_from_db()
    assert (trial.state, trial.error) == (TrialState.FAILED, "Its run reported no eval_loss.")
    assert run_sweeps.best(sweep) is None


def test_three_failures_in_a_row_pause_it(material: dict[str, Any]) -> None:
    sweep = make_sweep(material)
    for _ in range(5):
        run_sweep_work.work()
        for trial in live(sweep):
            end(trial, 0.5, Status.FAILED)
    sweep.refresh_from_db()
    assert (sweep.state, sweep.trials.count()) == (SweepState.PAUSED, 3)
    assert sweep.reason == "The last 3 trials failed. The last one said: It broke."


def test_what_cannot_be_started_pauses_it_with_the_reason(material: dict[str, Any]) -> None:
    sweep = make_sweep(material)
    Dataset.objects.update(status="rejected")
    run_sweep_work.work()
    sweep.refresh_from_db()
    assert sweep.state == SweepState.PAUSED
    assert "a run needs one that is ready" in sweep.reason
    assert not Run.objects.exists()
    assert not sweep.trials.exists()


def test_with_early_stopping_the_best_evaluation_counts(material: dict[str, Any]) -> None:
    sweep = make_sweep(material, config={"hyperparams": {"early_stopping_patience": 2}})
    run_sweep_work.work()
    (trial,) = live(sweep)
    run = trial.run
    assert run is not None
    with transaction.atomic():
        curves.append(run, "eval_loss", [(1, 0.5, 1.0), (2, 0.2, 2.0), (3, 0.4, 3.0)])
    assert run_sweep_work.value_of(run, "eval_loss") == 0.2
    with transaction.atomic():
        curves.append(run, "loss", [(step, float(step), 1.0) for step in range(1, 21)])
    assert run_sweep_work.value_of(run, "loss") == 15.5


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"field": "hyperparams.learning_rat", "values": [1]}, "Did you mean hyperparams.learning_rate?"),
        ({"field": "model.model", "values": ["a"]}, "all runs of a sweep share it"),
        ({"field": "hyperparams.max_length", "values": [64]}, "It is locked"),
        ({"field": "monitoring.sample_prompts", "values": ["a"]}, "single value"),
        ({"field": RATE, "values": [1e-4, 2]}, "above 0 and at most 1"),
        ({"field": RATE, "values": ["fast"]}, "it must be a number"),
        ({"field": RATE, "values": [1e-4, 1e-4]}, "named twice"),
        ({"field": RATE, "values": [[1]]}, "Each value must be a number"),
        ({"field": RANK, "values": [2.5]}, "a whole number"),
        ({"field": RATE}, "either values, or both low and high"),
        ({"field": RATE, "low": 1e-4, "high": 1e-5}, "must be below high"),
        ({"field": RATE, "low": 0, "high": 1, "log": True}, "needs a low above 0"),
        ({"field": RATE, "low": 1e-4, "high": 7}, "above 0 and at most 1"),
        ({"field": RANK, "low": 1, "high": 8.5}, "must be whole numbers"),
        ({"field": RANK, "low": 1, "high": 9, "step": 0}, "The step must be above 0"),
        ({"field": RANK, "low": 1, "high": 9, "step": 2, "log": True}, "has no step"),
        ({"field": "hyperparams.optim", "low": 1, "high": 2}, "A range needs numbers"),
        ({"field": "data.packing", "values": ["maybe"]}, "true or false"),
    ],
)
def test_a_field_that_cannot_be_varied_is_refused_with_its_place(
    material: dict[str, Any], item: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInputError, match="The sweep can't vary") as refused:
        make_sweep(material, [{"field": "hyperparams.seed", "values": [1, 2]}, item], "tpe")
    assert told in refused.value.message
    assert [fault.path for fault in refused.value.faults] == ["space.1"]
    assert not RunSweep.objects.exists()


def test_settings_that_do_not_go_together_are_found_before_the_first_run(material: dict[str, Any]) -> None:
    space = [{"field": "data.min_tokens", "values": [1, 100]}, {"field": "data.max_tokens", "values": [50, 500]}]
    with pytest.raises(InvalidInputError) as refused:
        make_sweep(material, space)
    assert "Below min_tokens (100)" in refused.value.message
    assert "tried: data.min_tokens 100, data.max_tokens 50" in refused.value.message


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": " "}, "name"), ({"method": "magic"}, "method"), ({"metric": "accuracy"}, "metric"),
        ({"max_trials": 0}, "max_trials"), ({"max_parallel": 0}, "max_parallel"), ({"seed": -1}, "seed"),
        ({"space": []}, "space"), ({"priority": "urgent"}, None), ({"dataset": 999_999}, None),
        ({"config": {"data": {"eval_fraction": 0}}}, "metric"),
        ({"config": {"output": {"register_as": "one"}}}, "config.output.register_as"),
        ({"config": {"hyperparams": {"max_steps": 0}}}, "config.hyperparams.max_steps"),
        ({"space": [{"field": "hyperparams.seed", "low": 1, "high": 9}]}, "space.0"),
        ({"space": [{"field": "hyperparams.seed", "low": 1, "high": 9999, "step": 1}]}, "space.0"),
        ({"space": [{"field": f"model.{name}", "low": 1, "high": 60, "step": 1} for name in ("lora_r", "lora_alpha")]},
         "space"),
    ],
)  # fmt: skip
def test_what_makes_no_sweep_is_refused(material: dict[str, Any], fields: dict[str, Any], path: str | None) -> None:
    whole = {"name": "rates", "space": GRID, "method": "grid", **material, **fields}
    with pytest.raises(Exception, match=r"\.") as refused:
        run_sweeps.create(MARA, **whole)
    if path is not None:
        assert isinstance(refused.value, InvalidInputError)
        assert [fault.path for fault in refused.value.faults] == [path]
    assert not RunSweep.objects.exists()


def test_a_stepped_range_is_a_grid_and_whole_numbers_stay_whole(material: dict[str, Any]) -> None:
    space = [{"field": RATE, "low": 0.1, "high": 0.3, "step": 0.1}, {"field": RANK, "low": 4.0, "high": 8, "step": 2}]
    assert make_sweep(material, space).space == [
        {"field": RATE, "values": [0.1, 0.2, 0.3]},
        {"field": RANK, "values": [4, 6, 8]},
    ]


# --- Steering ---------------------------------------------------------------------------------------------------------


def test_it_is_paused_resumed_and_stopped(material: dict[str, Any]) -> None:
    sweep = make_sweep(material)
    run_sweeps.pause(MARA, sweep.pk)
    run_sweep_work.work()
    assert not sweep.trials.exists()
    run_sweeps.resume(MARA, sweep.pk)
    run_sweep_work.work()
    (trial,) = live(sweep)
    run_sweeps.stop(MARA, sweep.pk)
    end(trial, 0.5)
    run_sweep_work.work()
    trial.refresh_from_db()
    assert (trial.state, sweep.trials.count()) == (TrialState.DONE, 1), "a run that was there still counts"
    with pytest.raises(ConflictError, match="nothing to resume"):
        run_sweeps.resume(MARA, sweep.pk)
    actions = list(
        AuditLine.objects.filter(action__startswith="run_sweep.").order_by("id").values_list("action", "actor")
    )
    assert actions == [
        ("run_sweep.create", "mara"), ("run_sweep.pause", "mara"), ("run_sweep.resume", "mara"),
        ("run_sweep.trial", "pilothouse"), ("run_sweep.stop", "mara"), ("run_sweep.told", "pilothouse"),
    ]  # fmt: skip
    assert LiveMessage.objects.filter(topic_id="run-sweeps").count() == len(actions)


def test_stopping_now_cancels_its_runs(material: dict[str, Any]) -> None:
    sweep = make_sweep(material, max_parallel=2)
    run_sweep_work.work()
    run_sweeps.stop(MARA, sweep.pk, "now")
    assert set(Job.objects.filter(kind="train").values_list("status", flat=True)) == {Status.CANCELLED}
    run_sweep_work.work()
    assert {trial.state for trial in sweep.trials.all()} == {TrialState.FAILED}


def test_it_belongs_to_who_made_it(material: dict[str, Any]) -> None:
    sweep = make_sweep(material)
    for action in (run_sweeps.pause, run_sweeps.stop, run_sweeps.delete):
        with pytest.raises(ForbiddenError, match="belongs to mara"):
            action(Actor("jonas", Role.USE), sweep.pk)
    with pytest.raises(ForbiddenError):
        run_sweeps.create(Actor("lea", Role.READ), name="x", space=GRID, **material)
    run_sweeps.pause(Actor("root", Role.ADMIN), sweep.pk)


def test_dataset_and_model_stay_while_a_sweep_needs_them(material: dict[str, Any]) -> None:
    sweep = make_sweep(material)
    root = Actor("root", Role.ADMIN)
    with pytest.raises(ConflictError, match="sweep"):
        datasets.delete(root, sweep.dataset_id)
    with pytest.raises(ConflictError, match="Sweep"):
        models.delete(root, "starter")
    with pytest.raises(ConflictError, match="still at work"):
        run_sweeps.delete(MARA, sweep.pk)
    run_sweep_work.work()
    (trial,) = live(sweep)
    run_sweeps.stop(MARA, sweep.pk, "now")
    run_sweep_work.work()
    assert trial.run_id is not None
    runs.delete(MARA, trial.run_id)
    trial.refresh_from_db()
    assert trial.run_id is None
    run_sweeps.delete(MARA, sweep.pk)
    datasets.delete(root, sweep.dataset_id)
