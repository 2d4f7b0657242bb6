"""A run ends before its disk is full, with its last checkpoint whole, and goes on when there is room again."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from monitoring.attempt import JobFaultError
from monitoring.events import Checkpoint, CheckpointGone, Resumed
from tests.training.trainjobs import TrainJob, make_job
from training import checkpoints
from training.callbacks import checkpoints as keeping

Usage = namedtuple("Usage", "total used free")
GIB = 1 << 30
SETTINGS: dict[str, Any] = {
    "hyperparams": {"max_steps": 6, "per_device_train_batch_size": 4},
    "output": {"save_steps": 2, "save_total_limit": 2, "min_free_gib": 1.0},
    "data": {"eval_fraction": 0.0},
}


class Disk:
    """A stand-in for the disk: what it has left, which a test changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = 100 * GIB
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(200 * GIB, 0, self.free_bytes))


class Filler(TrainerCallback):  # type: ignore[misc]
    """Somebody else who fills the disk at a step."""

    def __init__(self, disk: Disk, step: int, left_bytes: int) -> None:
        self.disk, self.step, self.left_bytes = disk, step, left_bytes

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == self.step:
            self.disk.free_bytes = self.left_bytes


class FullAtOnce(TrainerCallback):  # type: ignore[misc]
    """What is written at the first step finds no room, an event for one."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self.disk.free_bytes = 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def steps_of(job: TrainJob, kind: type[Any]) -> list[int]:
    return [body.step for body in job.bodies(kind)]


def fill(job: TrainJob, disk: Disk, step: int, left_bytes: int) -> JobFaultError:
    with pytest.raises(JobFaultError) as caught:
        job.run_here(callbacks=(Filler(disk, step, left_bytes),))
    assert caught.value.code == "disk_full"
    return caught.value


def test_it_ends_with_the_last_one_whole_and_goes_on_when_there_is_room(tmp_path: Path, disk: Disk) -> None:
    job = make_job(tmp_path, **SETTINGS)
    fault = fill(job, disk, 4, 10 << 20)  # not even room for the checkpoint itself
    assert checkpoints.steps(job.checkpoints) == [2]
    last = checkpoints.verify(checkpoints.path_of(job.checkpoints, 2))
    assert fault.needed_bytes == last.size_bytes + GIB
    assert f"needs {fault.needed_bytes / 1e9:.2f} GB" in fault.message
    assert not job.model_dir.exists()

    disk.free_bytes = fault.needed_bytes
    second = job.next_attempt()
    assert second.run_here()["steps"] == 6
    assert second.bodies(Resumed) == [Resumed(step=2)]
    assert steps_of(second, Checkpoint) == [4, 6]


def test_while_a_checkpoint_still_fits_no_step_is_lost(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LOOK_AT_DISK_SECONDS", 0.0)
    job = make_job(tmp_path, **SETTINGS)
    fill(job, disk, 3, GIB // 2)
    assert steps_of(job, Checkpoint) == [2, 3]
    assert checkpoints.verify(checkpoints.path_of(job.checkpoints, 3)).step == 3


def test_what_may_go_makes_room_first(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, **SETTINGS)
    release = checkpoints.release

    def freeing(path: Path) -> bool:
        gone = release(path)
        disk.free_bytes += GIB if gone else 0
        return gone

    monkeypatch.setattr(checkpoints, "release", freeing)
    values = job.run_here(callbacks=(Filler(disk, 6, GIB // 2),))
    assert values["steps"] == 6
    assert steps_of(job, CheckpointGone)[:1] == [2]
    assert checkpoints.steps(job.checkpoints)[-1] == 6


def test_without_room_for_one_checkpoint_it_doesnt_begin(tmp_path: Path, disk: Disk) -> None:
    disk.free_bytes = GIB + 100
    with pytest.raises(JobFaultError) as caught:
        make_job(tmp_path, **SETTINGS).run_here()
    assert caught.value.code == "disk_full"
    assert caught.value.needed_bytes is not None
    assert caught.value.needed_bytes > GIB + (3 << 20)


def test_a_disk_that_is_full_between_two_checkpoints_is_said_with_what_the_next_one_needs(
    tmp_path: Path, disk: Disk
) -> None:
    with pytest.raises(JobFaultError, match="No space left") as caught:
        make_job(tmp_path, **SETTINGS).run_here(callbacks=(FullAtOnce(disk),))
    assert caught.value.code == "disk_full"
    assert caught.value.needed_bytes is not None
    assert caught.value.needed_bytes > GIB + (3 << 20)


def test_every_so_many_steps_one_is_kept_for_good(tmp_path: Path) -> None:
    output = {"save_steps": 1, "save_total_limit": 1, "keep_best": 0, "keep_every_steps": 3}
    job = make_job(tmp_path, **{**SETTINGS, "output": output})
    job.run_here()
    assert checkpoints.steps(job.checkpoints) == [3, 5, 6]
