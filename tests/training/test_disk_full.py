"""On a disk that is really full a run ends paused: it says what it needs, its checkpoints are whole, and it goes on."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monitoring.attempt import JobFaultError
from monitoring.events import Error, Resumed
from tests.small_disk import SmallDisk, small_disk
from tests.training.trainjobs import DEADLINE_SECONDS, TrainJob, config_of, make_job
from training import checkpoints

MIB = 1 << 20
FREE_GIB = 1 / 256
FREE_BYTES = 4 * MIB
"""What the runs here leave free (`output.min_free_gib`)."""


def settings(**output: Any) -> dict[str, Any]:
    return {
        "hyperparams": {"max_steps": 60, "per_device_train_batch_size": 2},
        "output": {"save_steps": 1, "min_free_gib": FREE_GIB, **output},
        "data": {"eval_fraction": 0.0},
    }


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 30 * MIB) as mounted:
        yield mounted


def require_whole(job: TrainJob, said: Error | JobFaultError) -> None:
    """It has ended for want of room and says how much it needs; nothing half-written is left."""
    assert said.code == "disk_full", said.message
    assert sorted(path.name for path in job.checkpoints.iterdir() if path.name.startswith(".")) == []
    sizes = [checkpoints.verify(checkpoints.path_of(job.checkpoints, step)).size_bytes for step in held(job)]
    assert said.needed_bytes == sizes[-1] + FREE_BYTES
    assert f"needs {said.needed_bytes / 1e9:.2f} GB" in said.message


def held(job: TrainJob) -> list[int]:
    return checkpoints.steps(job.checkpoints)


def stop_while_it_writes(job: TrainJob) -> None:
    """Halts the process in the midst of writing a checkpoint, of which at least the manifest is still to be written."""
    assert job.process is not None
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        assert job.process.poll() is None, (job.attempt_dir / "log.txt").read_text()
        if unfinished(job):
            os.kill(job.process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, job.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if any(not (part / checkpoints.MANIFEST_FILE).exists() for part in unfinished(job)):
                return
            os.kill(job.process.pid, signal.SIGCONT)
        time.sleep(0.0005)
    raise AssertionError("it was never seen writing")


def unfinished(job: TrainJob) -> list[Path]:
    return list(job.checkpoints.glob(".step-*.part"))


def test_a_run_ends_before_its_disk_is_full_and_when_it_fills_under_it_and_goes_on(
    disk: SmallDisk, request: pytest.FixtureRequest
) -> None:
    first = make_job(disk.path / "home", **settings(save_total_limit=0))
    with pytest.raises(JobFaultError) as caught:
        first.run_here()
    require_whole(first, caught.value)
    assert held(first) == [1, 2]
    assert disk.free_bytes > FREE_BYTES, "there is still room for everybody else"

    disk.grow(200 * MIB)
    second = replace(first.next_attempt(), config=config_of(**settings(save_total_limit=2))).start()
    assert second.process is not None
    request.addfinalizer(second.process.kill)  # a process that was halted would stay so
    second.wait_until(lambda job: job.bodies(Resumed) == [Resumed(step=2)])
    stop_while_it_writes(second)
    disk.fill()
    second.tell(signal.SIGCONT)
    assert second.wait() != 0
    (error,) = second.bodies(Error)
    require_whole(second, error)
    assert "There is no room for what the run wants to write" in error.message

    disk.empty()
    last = held(second)[-1]
    end = {**settings(), "hyperparams": {"max_steps": last + 1, "per_device_train_batch_size": 2}}
    third = replace(second.next_attempt(), config=config_of(**end))
    assert third.run_here()["steps"] == last + 1
    assert third.bodies(Resumed) == [Resumed(step=last)]
    assert held(third)[-1] == last + 1
