"""A checkpoint is whole or is not offered; retention lets go of the right ones."""

import errno
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, CheckpointGone, EventWriter, Inputs, JobSpec, Log, Resumed, decode_event
from training import checkpoints
from training.checkpoints import DamagedCheckpointError, Manifest
from training.job import find_resume


def write(folder: Path, step: int, loss: float | None = 1.0) -> Path:
    with checkpoints.writing(folder, step) as temporary:
        (temporary / "model.safetensors").write_bytes(b"weights" * step)
        (temporary / "optimizer.pt").write_bytes(b"moments" * step)
        path, _, _ = checkpoints.publish(temporary, folder, Manifest(step, 0.5, loss, None, run={"tokens": step}))
    return path


def test_what_was_written_is_verified_and_found(tmp_path: Path) -> None:
    write(tmp_path, 2)
    path = write(tmp_path, 10, loss=math.nan)
    assert checkpoints.steps(tmp_path) == [2, 10]
    assert checkpoints.latest(tmp_path) == path
    manifest = checkpoints.verify(path)
    assert (manifest.step, manifest.epoch, manifest.run) == (10, 0.5, {"tokens": 10})
    assert manifest.loss is not None
    assert math.isnan(manifest.loss)
    assert set(manifest.files) == {"model.safetensors", "optimizer.pt"}


def cut(path: Path) -> None:
    (path / "optimizer.pt").write_bytes(b"mom")


def flip(path: Path) -> None:
    data = bytearray((path / "optimizer.pt").read_bytes())
    data[0] ^= 1
    (path / "optimizer.pt").write_bytes(bytes(data))


def lose_file(path: Path) -> None:
    (path / "optimizer.pt").unlink()


def lose_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def tear_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"step": 1')


@pytest.mark.parametrize("damage", [cut, flip, lose_file, lose_manifest, tear_manifest])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    damage(bad)
    with pytest.raises(DamagedCheckpointError) as caught:
        checkpoints.verify(bad)
    assert caught.value.code == "checkpoint_damaged"
    assert checkpoints.latest(tmp_path) == good


def test_nothing_half_written_is_left_by_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), checkpoints.writing(tmp_path, 3) as temporary:
        (temporary / "model.safetensors").write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFaultError) as caught, checkpoints.writing(tmp_path, 3):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.code == "disk_full"


def test_only_a_disk_that_lacks_the_room_is_waited_for(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    more_than_there_is = shutil.disk_usage(tmp_path).total * 2
    assert checkpoints.disk_full(tmp_path, error, more_than_there_is).needed_bytes == more_than_there_is
    assert checkpoints.disk_full(tmp_path, error, 1).needed_bytes is None  # another disk is the full one
    quota = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert checkpoints.disk_full(tmp_path, quota, more_than_there_is).needed_bytes is None
    assert not checkpoints.is_disk_full(OSError(errno.EIO, "Input/output error"), tmp_path / "not" / "there")


def test_leftovers_of_a_killed_attempt_are_cleared(tmp_path: Path) -> None:
    kept = write(tmp_path, 1)
    (tmp_path / ".step-2.part").mkdir()
    (tmp_path / ".step-0.gone").mkdir()
    checkpoints.clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_the_last_and_the_best_never_go() -> None:
    scores: dict[int, float | None] = {10: 0.1, 20: 0.9, 30: 0.8, 40: 0.7, 50: 0.6}
    assert checkpoints.surplus(scores, limit=3, keep_best=1) == [20, 30]
    assert checkpoints.surplus(scores, limit=1, keep_best=1) == [20, 30, 40]
    assert checkpoints.surplus(scores, limit=1, keep_best=0) == [10, 20, 30, 40]
    assert checkpoints.surplus(scores, limit=1, keep_best=0, protected=[30]) == [10, 20, 40]
    assert checkpoints.surplus(scores, limit=0, keep_best=1) == []


def test_those_kept_for_good_stay_and_are_not_counted() -> None:
    scores: dict[int, float | None] = {10: 0.9, 20: 0.8, 30: 0.7, 40: 0.6, 50: 0.5, 60: 0.4}
    assert checkpoints.surplus(scores, limit=2, keep_best=0, for_good=[20, 40]) == [10, 30]
    assert checkpoints.surplus(scores, limit=1, keep_best=0, for_good=[20, 40, 60]) == [10, 30]
    assert checkpoints.surplus(scores, limit=4, keep_best=0, for_good=[20, 40]) == []


def test_a_marked_one_is_not_let_go(tmp_path: Path) -> None:
    kept, other = write(tmp_path, 1), write(tmp_path, 2)
    (kept / "keep.pin").touch()
    assert [checkpoints.release(kept), checkpoints.release(other), checkpoints.release(other)] == [False, True, False]
    assert checkpoints.steps(tmp_path) == [1]
    assert checkpoints.verify(kept).step == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-1"]


def test_a_marked_one_outlives_a_kill_while_it_was_looked_at_and_being_written_anew(tmp_path: Path) -> None:
    kept = write(tmp_path, 1)
    (kept / "keep.pin").touch()
    kept.rename(tmp_path / ".step-1.gone")  # as a kill in `release` leaves it
    checkpoints.clear_leftovers(tmp_path)
    assert checkpoints.verify(kept).step == 1
    write(tmp_path, 1)
    assert checkpoints.is_kept(kept)
    assert checkpoints.verify(kept).step == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from training import checkpoints
from training.checkpoints import Manifest

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

folder, point = Path(sys.argv[1]), sys.argv[2]
with checkpoints.writing(folder, 2) as temporary:
    (temporary / "model.safetensors").write_bytes(b"weights" * 2)
    if point == "files":
        die()
    (temporary / "optimizer.pt").write_bytes(b"moments" * 2)
    setattr(checkpoints, point, die)
    checkpoints.publish(temporary, folder, Manifest(2))
"""


@pytest.mark.parametrize("point", ["files", "hashes_of", "write_json", "publish_folder"])
def test_one_that_is_killed_while_it_is_written_is_never_offered(tmp_path: Path, point: str) -> None:
    good = write(tmp_path, 1)
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), point], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / ".step-2.part").is_dir()
    assert checkpoints.steps(tmp_path) == [1]
    assert checkpoints.latest(tmp_path) == good
    checkpoints.clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [good]


@given(
    st.dictionaries(st.integers(1, 100), st.none() | st.floats(allow_nan=True), min_size=1),
    st.integers(0, 6),
    st.integers(0, 4),
)
def test_retention_keeps_what_it_promises(scores: dict[int, float | None], limit: int, keep_best: int) -> None:
    gone = checkpoints.surplus(scores, limit=limit, keep_best=keep_best)
    left = set(scores) - set(gone)
    assert max(scores) in left
    known = sorted((score, step) for step, score in scores.items() if score is not None and not math.isnan(score))
    assert {step for _, step in known[:keep_best]} <= left
    assert len(left) >= min(limit, len(scores))
    assert gone == sorted(set(gone))
    if limit:
        assert len(left) <= max(limit, 1 + keep_best)


def resume(root: Path, attempt: int, named: Path | None = None) -> tuple[Path | None, list[object]]:
    artefact = Artefact(id="1", path=str(named)) if named else None
    spec = JobSpec(1, attempt, "train", "train", "here", str(root), Inputs(resume_from=artefact))
    path = root / f"events-{attempt}.jsonl"
    with EventWriter(path) as events:
        found = find_resume(spec, root / "checkpoints", events)
    return found, [decode_event(line).body for line in path.read_bytes().splitlines()]


def test_a_first_attempt_starts_at_the_beginning(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", 1)
    assert resume(tmp_path, 1) == (None, [])


def test_a_second_attempt_goes_on_from_the_last_whole_one(tmp_path: Path) -> None:
    good, torn = write(tmp_path / "checkpoints", 1), write(tmp_path / "checkpoints", 2)
    cut(torn)
    found, told = resume(tmp_path, 2)
    assert found == good
    assert told == [Resumed(step=1), CheckpointGone(step=2)]
    assert not torn.exists()


def test_going_on_from_before_a_marked_one_leaves_it(tmp_path: Path) -> None:
    good, torn = write(tmp_path / "checkpoints", 1), write(tmp_path / "checkpoints", 2)
    cut(torn)
    (torn / "keep.pin").touch()
    found, told = resume(tmp_path, 2)
    assert (found, torn.exists()) == (good, True)
    assert CheckpointGone(step=2) not in told


def test_a_second_attempt_without_a_checkpoint_starts_over_and_says_so(tmp_path: Path) -> None:
    assert resume(tmp_path, 2) == (None, [Resumed(step=0)])


def test_a_named_one_that_is_damaged_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    good, torn = write(tmp_path / "checkpoints", 1), write(tmp_path / "checkpoints", 2)
    flip(torn)
    found, told = resume(tmp_path, 2, torn)
    assert found == good
    assert isinstance(told[0], Log)
    assert told[1] == Resumed(step=1)


def test_a_named_one_that_is_damaged_and_alone_is_a_fault(tmp_path: Path) -> None:
    torn = write(tmp_path / "checkpoints", 2)
    flip(torn)
    with pytest.raises(DamagedCheckpointError):
        resume(tmp_path, 2, torn)


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    path = write(tmp_path, 1, loss=math.inf)
    assert json.loads((path / "manifest.json").read_text())["loss"] == "Infinity"
