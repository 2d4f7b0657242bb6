"""Several processes that train one run: the losses of one process, wishes, checkpoints, what becomes of the others.

Two processes with gloo on the processor, forked from this one, which has torch already. `test_terminal` goes the whole
way, through torchrun's agent and a signal.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from transformers import TrainerCallback

from monitoring.attempt import JobFaultError, JobPausedError
from monitoring.events import EVENTS_FILE, Checkpoint, EventWriter, JobSpec, Wish
from tests.training.attempts import wait_until
from tests.training.trainjobs import REPOSITORY, TrainJob, make_job, tiny_model
from training.config.loader import parse_config
from training.data.order import FILLER, SeededOrder
from training.distributed import sharding
from training.distributed.launch import _come_to, process_count
from training.distributed.ranks import Ranks
from training.distributed.worker import Outcome, Unheard
from training.job import find_resume
from training.models import Start, load_model
from training.wishes import Wishes

HYPER: dict[str, Any] = {"num_train_epochs": 2.0, "precision": "fp32"}
ROWS = 30  # 27 to train on: the last batch of each round is short, and is filled up for the second process
PARTS: dict[str, Any] = {
    "hyperparams": {**HYPER, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "output": {"save_steps": 3},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """The same run by one process: a batch of 8 in one piece."""
    root = tmp_path_factory.mktemp("alone")
    job = make_job(root, rows=ROWS, hyperparams={**HYPER, "per_device_train_batch_size": 8})
    job.run_here()
    return job


def of_two(root: Path, distributed: str, **changes: dict[str, Any]) -> TrainJob:
    environment = {"distributed": distributed, "gpus": 2, "nice": 0, "cpu_threads": 1}
    return make_job(root, rows=ROWS, **{**PARTS, "environment": environment, **changes})


def run_in_two(*jobs: TrainJob, callbacks: tuple[Any, ...] = ()) -> None:
    """Runs the jobs one after the other in two processes; one that is told to pause is gone on with."""
    context = multiprocessing.get_context("fork")
    rendezvous = Path(tempfile.mkdtemp(dir=jobs[0].root)) / "rendezvous"
    ranks = [context.Process(target=_rank, args=(rank, rendezvous, jobs, callbacks)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(100)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]


def _rank(rank: int, rendezvous: Path, jobs: tuple[TrainJob, ...], callbacks: tuple[Any, ...]) -> None:
    from training.engine import TrainerEngine

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    ranks = Ranks.join(rendezvous)
    for job in jobs:
        events = EventWriter(job.attempt_dir / EVENTS_FILE) if ranks.leads else Unheard()
        resume = ranks.shared(find_resume(job.spec(), job.checkpoints, events) if ranks.leads else None)
        wishes = Wishes()
        own = [make(wishes, ranks) for make in callbacks]
        with events:
            try:
                TrainerEngine(job.spec(), events, wishes, resume, ranks).run_job(parse_config(job.config), own)
            except JobPausedError:
                assert own
    os._exit(0)


class PauseAt(TrainerCallback):  # type: ignore[misc]
    """The first process alone hears of the wish."""

    def __init__(self, wishes: Wishes, ranks: Ranks) -> None:
        self._wishes, self._ranks = wishes, ranks

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == 5 and self._ranks.leads:
            self._wishes.tell(Wish.PAUSE)


def whole_curve(*attempts: TrainJob) -> dict[int, float]:
    curve: dict[int, float] = {}
    for job in attempts:
        curve |= job.curve("loss")
    return curve


def test_ddp_and_fsdp_draw_the_curve_of_one_process_through_a_pause(tmp_path: Path, alone: TrainJob) -> None:
    ddp, fsdp = of_two(tmp_path / "ddp", "ddp"), of_two(tmp_path / "fsdp", "fsdp")
    after, again = ddp.next_attempt(), fsdp.next_attempt()
    run_in_two(ddp, after, fsdp, again, callbacks=(PauseAt,))

    expected = alone.curve("loss")
    assert list(expected) == list(range(1, 9))
    for curve in (whole_curve(ddp, after), whole_curve(fsdp, again)):
        assert list(curve) == list(expected)
        assert list(curve.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    assert max(fsdp.curve("loss")) == max(ddp.curve("loss")) == 5
    assert ddp.curve("tokens")[5] == alone.curve("tokens")[5]
    assert after.curve("tokens")[8] == alone.curve("tokens")[8]
    assert again.curve("tokens")[8] == alone.curve("tokens")[8]
    assert [body.step for body in [*ddp.bodies(Checkpoint), *after.bodies(Checkpoint)]] == [3, 5, 6, 8]
    weights = [torch.load(path, weights_only=True) for path in sorted(fsdp.checkpoints.glob("step-5/optimizer.pt"))]
    assert "model.norm.weight" in weights[0]["state"], "the state of a divided optimizer goes by names"
    assert not list(fsdp.model_dir.parent.glob(".*"))


def test_the_names_in_an_adapters_file_are_found_in_the_model(tmp_path: Path) -> None:
    config = parse_config({"model": {"method": "lora"}})
    model = load_model(Start(tiny_model()), config)
    model.save_pretrained(tmp_path)
    named = {sharding._named(name) for name in load_file(tmp_path / "adapter_model.safetensors")}
    assert named
    assert named <= set(model.state_dict())


def test_a_filler_makes_batches_whole_and_the_order_stays() -> None:
    one, two = SeededOrder(11, 7, batch=4), SeededOrder(11, 7, batch=4, multiple=4)
    assert two.positions(1)[:11] == one.positions(1)
    assert two.positions(1)[11:] == [FILLER]
    assert len(two) == 12 and len(one) == 11


def test_as_many_processes_as_gpus_and_one_where_nothing_is_shared() -> None:
    spec = JobSpec(1, 1, "train", "train", "here", "/nowhere")
    ddp = parse_config({"environment": {"distributed": "ddp", "gpus": 3}})
    assert process_count(spec, ddp) == 3
    assert process_count(replace(spec, gpus=("GPU-a", "GPU-b")), ddp) == 2
    assert process_count(spec, parse_config({"environment": {"gpus": 3}})) == 1
    assert process_count(spec, parse_config({"environment": {"distributed": "fsdp"}})) == 1


def outcome(code: str = "", *, at: float = 0.0, paused: bool = False) -> Outcome:
    return Outcome(
        code=code, message=code, fix="", needed_bytes=None, is_paused=paused, values={"steps": 3}, time=at
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "died", "code"),
    [
        ({0: outcome("internal", at=1.0), 1: outcome("out_of_memory", at=2.0)}, {}, "out_of_memory"),
        ({0: outcome("internal", at=1.0)}, {1: -9}, "rank_died"),
        ({0: outcome("internal", at=1.0), 1: outcome()}, {0: 1}, "internal"),
        ({}, {0: 1, 1: 1}, "rank_died"),
        ({0: outcome()}, {1: 1}, "rank_died"),
    ],
)
def test_the_fault_that_is_told_is_the_one_that_began_it(
    outcomes: dict[int, Outcome], died: dict[int, int], code: str
) -> None:
    with pytest.raises(JobFaultError) as caught:
        _come_to(outcomes, died, 2)
    assert caught.value.code == code


def test_the_first_processs_end_is_the_runs() -> None:
    assert _come_to({0: outcome(), 1: outcome()}, {}, 2) == {"steps": 3}
    with pytest.raises(JobPausedError):
        _come_to({0: outcome(paused=True), 1: outcome(paused=True)}, {}, 2)


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    child = (
        "import sys, time; from pathlib import Path; from training.distributed.worker import _end_with_parent;"
        "_end_with_parent(); Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, sys.argv[1]])"
    mark = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", parent, str(mark)], cwd=REPOSITORY)
    wait_until(mark.exists, "the child is there")
    (started,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    started.wait(10)
