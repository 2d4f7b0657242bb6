"""Memory that does not suffice: batches in parts, the probe before the first step, and what computes less at once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from monitoring.attempt import JobFaultError
from monitoring.events import Log, Metrics
from monitoring.files import write_json
from tests.training.trainjobs import REPOSITORY, TrainJob, make_job
from training import memory_probe
from training.distributed.sharding import own_part
from training.trainer import JobTrainer

SETTINGS: dict[str, Any] = {
    "hyperparams": {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "monitoring": {"eval_steps": 2},
}
ADAPTER: dict[str, Any] = {**SETTINGS, "model": {"method": "lora", "lora_dropout": 0.2}}
OOM = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """The run with memory enough; several tests compare with its curves."""
    job = make_job(tmp_path_factory.mktemp("plain"), **SETTINGS)
    job.run_here()
    return job


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """The same with an adapter and dropout, which draws random numbers in each step."""
    job = make_job(tmp_path_factory.mktemp("adapter"), **ADAPTER)
    job.run_here()
    return job


def assert_same_course(job: TrainJob, other: TrainJob, tolerance: float = 1e-4) -> None:
    for key in ("loss", "eval_loss", "grad_norm"):
        assert list(job.curve(key).values()) == pytest.approx(list(other.curve(key).values()), rel=tolerance), key
    assert job.curve("learning_rate") == other.curve("learning_rate")
    assert job.curve("tokens") == other.curve("tokens")


def warnings_of(job: TrainJob) -> list[str]:
    return [body.text for body in job.bodies(Log) if body.level == "warning"]


def test_a_process_that_runs_out_of_memory_in_mid_step_draws_the_same_curve(tmp_path: Path, plain: TrainJob) -> None:
    job = make_job(tmp_path, **SETTINGS)
    spec = job.attempt_dir / "spec.json"
    write_json(spec, job.spec().to_json())
    command = [sys.executable, "-m", "tests.training.short_of_memory", str(spec)]
    subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    assert_same_course(job, plain)
    assert [text for text in warnings_of(job) if "2 parts" in text]
    assert [text for text in warnings_of(job) if "4 parts" in text]


def test_half_added_gradients_are_dropped_and_an_evaluation_is_computed_in_parts(
    tmp_path: Path, plain: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, compute, calls = Accelerator.backward, JobTrainer.compute_loss, []

    def scarce(self: Accelerator, loss: torch.Tensor, **more: Any) -> None:
        backward(self, loss, **more)  # the gradients are there, and belong to a step that fails
        calls.append(loss)
        if len(calls) == 4:
            raise torch.OutOfMemoryError(OOM)

    def smaller(self: JobTrainer, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any) -> Any:
        if not model.training and len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError(OOM)
        return compute(self, model, inputs, *rest, **more)

    monkeypatch.setattr(Accelerator, "backward", scarce)
    monkeypatch.setattr(JobTrainer, "compute_loss", smaller)
    job = make_job(tmp_path, **SETTINGS)
    job.run_here()
    assert_same_course(job, plain)
    assert [text.split()[-2] for text in warnings_of(job)] == ["2", "4"]


def test_the_probe_leaves_no_trace_but_its_sentence(
    tmp_path: Path, adapter: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_probe, "is_worthwhile", lambda: True)
    probed = make_job(tmp_path, **ADAPTER)
    probed.run_here()
    for key in ("loss", "eval_loss", "grad_norm", "tokens"):
        assert probed.curve(key) == adapter.curve(key)
    (said,) = [body.text for body in probed.bodies(Log) if "longest batch" in body.text]
    assert "at once" in said


def test_of_a_shared_weight_a_process_holds_its_own_part() -> None:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        shared = DTensor.from_local(torch.zeros(3), init_device_mesh("cpu", (2,)), [Shard(0)])
        assert (shared.numel(), own_part(shared).numel()) == (6, 3)
    finally:
        torch.distributed.destroy_process_group()
    assert own_part(torch.zeros(4)).numel() == 4


def test_the_probe_finds_the_division_before_the_first_step(
    tmp_path: Path, plain: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, sizes = JobTrainer.compute_loss, []

    def scarce(self: JobTrainer, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any) -> Any:
        sizes.append(tuple(inputs["input_ids"].shape))
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError(OOM)
        return compute(self, model, inputs, *rest, **more)

    monkeypatch.setattr(memory_probe, "is_worthwhile", lambda: True)
    monkeypatch.setattr(JobTrainer, "compute_loss", scarce)
    job = make_job(tmp_path, **SETTINGS)
    job.run_here()
    assert_same_course(job, plain)
    bodies = [event.body for event in job.events()]
    told = next(place for place, body in enumerate(bodies) if isinstance(body, Log) and "fits in 2 parts" in body.text)
    assert told < next(place for place, body in enumerate(bodies) if isinstance(body, Metrics))
    assert sizes[0][1] == max(tokens for _, tokens in sizes)


def test_not_even_one_example_ends_the_run_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(OOM)

    monkeypatch.setattr(memory_probe, "is_worthwhile", lambda: True)
    monkeypatch.setattr(JobTrainer, "compute_loss", full)
    job = make_job(tmp_path, **SETTINGS)
    with pytest.raises(JobFaultError) as caught:
        job.run_here()
    assert caught.value.code == "out_of_memory"
    assert job.bodies(Metrics) == []


def test_checkpointed_activations_give_the_same_losses(tmp_path: Path, plain: TrainJob, adapter: TrainJob) -> None:
    for other in (plain, adapter):
        method = other.config["model"]["method"]
        changes = {**other.config, "model": {**other.config["model"], "gradient_checkpointing": True}}
        job = make_job(tmp_path / method, **changes)
        job.run_here()
        assert_same_course(job, other, 1e-5)
