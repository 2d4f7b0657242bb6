"""A loss that runs away or is no number ends the run, and leaves the last good checkpoint to go on from.

All of it is real: a learning rate far too high, in the engine, in this process.
"""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, Log
from tests.training.trainjobs import TrainJob, config_of, make_job
from training import checkpoints
from training.callbacks.divergence import PATIENCE_POINTS, Divergence, require_finite
from training.distributed.ranks import Ranks
from training.state import RunState
from training.trainer import JobTrainer

EXPLODING: dict[str, Any] = {
    "hyperparams": {
        "max_steps": 30, "per_device_train_batch_size": 4, "learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0.0,
    },
    "model": {"method": "full"},
    "output": {"save_steps": 1, "save_total_limit": 2, "keep_best": 0},
}  # fmt: skip


def fault_of(job: TrainJob) -> JobFaultError:
    with pytest.raises(JobFaultError) as caught:
        job.run_here()
    return caught.value


def test_a_real_nan_ends_the_run_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    """Gradients explode step by step: by the time one is NaN, retention would have let go of every good state."""
    job = make_job(tmp_path, **EXPLODING)
    fault = fault_of(job)
    assert fault.code == "loss_not_finite"
    curve, norms = job.curve("loss"), job.curve("grad_norm")
    last = max(curve)
    assert not (math.isfinite(curve[last]) and math.isfinite(norms[last]))
    assert f"at step {last}" in fault.message
    steps = checkpoints.steps(job.checkpoints)
    assert last not in steps, "a step whose figures are no numbers is never saved"
    good = steps[0]
    assert f"The last good checkpoint is that of step {good}; it is kept." in fault.message
    assert steps == [good, last - 1], "retention keeps two: the last one, and not the one before it but the good one"
    assert curve[good + 1] < 3 * min(curve.values()) < curve[good + 2], "what the good weights made of the next batch"
    assert "Lower hyperparams.learning_rate (it is 1)" in fault.fix
    assert not job.model_dir.exists()

    again = job.next_attempt()
    again.resume_from = Artefact(id=f"1/{good}", path=str(checkpoints.path_of(job.checkpoints, good)))
    again.config = config_of(**{**EXPLODING, "hyperparams": {**EXPLODING["hyperparams"], "learning_rate": 0.02}})
    values = again.run_here()
    assert values["steps"] == 30
    rates = again.curve("learning_rate")
    assert min(rates) == good + 1
    assert max(rates.values()) <= 0.02
    assert again.curve("loss")[30] < curve[1]
    assert any("The learning rate is 0.02 from here on" in body.text for body in again.bodies(Log))


def test_a_loss_that_runs_away_ends_the_run(tmp_path: Path) -> None:
    hyper = {**EXPLODING["hyperparams"], "optim": "adamw_torch", "max_grad_norm": 1.0}
    job = make_job(tmp_path, **{**EXPLODING, "hyperparams": hyper, "output": {"save_steps": 1}})
    fault = fault_of(job)
    assert fault.code == "loss_diverged"
    curve = job.curve("loss")
    assert max(curve) <= 2 + PATIENCE_POINTS + 3
    assert "The last good checkpoint is that of step 1; it is kept." in fault.message
    assert 1 in checkpoints.steps(job.checkpoints)
    assert "monitoring.divergence_factor" in fault.fix


# --- The rule, point by point ---


def look(losses: list[float], factor: float = 3.0, *, fp16: bool = False, norm: float = 1.0) -> RunState:
    """What a run knows after these losses, one a step."""
    run = RunState()
    callback = Divergence(run, Path("/nowhere"), factor)
    args: Any = SimpleNamespace(learning_rate=1e-3, fp16=fp16)
    for step, loss in enumerate(losses, 1):
        state: Any = SimpleNamespace(global_step=step)
        callback.on_log(args, state, SimpleNamespace(), logs={"loss": loss, "grad_norm": norm})
    return run


@pytest.mark.parametrize(
    "losses",
    [
        [4.0, 3.0, *[2.0] * 20, *[30.0] * 2, *[2.0] * 40],  # two bad batches
        [4.0, *[0.01] * 30, *[0.5] * 60],  # fifty times the best, but far below where it began
        [4.0, *[4.5, 3.5] * 40],
        [2.0, *[5.9] * 60],  # high, and not three times as high
    ],
)  # fmt: skip
def test_what_is_no_divergence_goes_on(losses: list[float]) -> None:
    look(losses)


def test_many_points_in_a_row_are_one(tmp_path: Path) -> None:
    course = [4.0, *[1.0] * 20, *[30.0] * 30]
    with pytest.raises(JobFaultError) as caught:
        look(course)
    assert "from step 22 to step" in caught.value.message
    assert "There is no good checkpoint from before." in caught.value.message
    assert look(course, factor=0.0).suspect_since is None
    assert look(course[:22]).suspect_since == 22
    assert look([*course[:23], *[1.0] * 60]).suspect_since is None, "it has calmed down"


def test_checkpoints_are_looked_for_only_when_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    def steps(folder: Path) -> list[int]:
        looked.append(folder)
        return []

    monkeypatch.setattr(checkpoints, "steps", steps)
    look([4.0, *[1.0] * 20])
    assert looked == []
    with pytest.raises(JobFaultError):
        look([4.0, math.nan])
    assert looked == [Path("/nowhere")]


def test_what_is_known_goes_through_a_manifest() -> None:
    run = look([4.0, *[1.0] * 20, *[30.0] * 3])
    assert RunState.from_json(run.to_json()) == run


@pytest.mark.parametrize(
    "figures", [{"losses": [math.nan]}, {"losses": [math.inf]}, {"losses": [2.0], "norm": math.nan}]
)
def test_what_is_no_number_ends_it_even_with_the_rule_off(figures: dict[str, Any]) -> None:
    with pytest.raises(JobFaultError) as caught:
        look(**figures, factor=0.0)
    assert caught.value.code == "loss_not_finite"


def test_fp16_may_meet_infinite_gradients() -> None:
    look([2.0, 2.0], fp16=True, norm=math.inf)


def test_weights_that_a_step_has_spoilt_are_not_saved(tmp_path: Path) -> None:
    """The loss is that of the weights before the step, and still a number."""
    model = torch.nn.Linear(2, 2)
    trainer: Any = SimpleNamespace(
        loss_is_finite=lambda: True, weights_are_finite=lambda: JobTrainer.weights_are_finite(trainer), model=model,
        _ranks=Ranks(), state=SimpleNamespace(global_step=7), args=SimpleNamespace(learning_rate=0.5),
    )  # fmt: skip
    require_finite(trainer, tmp_path, RunState())
    with torch.no_grad():
        model.weight[0, 0] = math.inf
    with pytest.raises(JobFaultError, match="Weights are no numbers after step 7"):
        require_finite(trainer, tmp_path, RunState())
