"""A run that ended before the disk was full is paused, says what it needs, and goes on when there is room."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from controlplane.models import Job
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Desired, Status
from controlplane.services import disk_guard, jobs, settings
from monitoring import events as ev
from tests.controlplane.test_ingest import Stage, ended

pytestmark = pytest.mark.django_db
Usage = namedtuple("Usage", "total used free")
FULL = ev.Error("disk_full", "The disk is nearly full.", "Free some.", needed_bytes=5000)


@pytest.fixture
def paused(tmp_path: Path, home: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.writer.emit(FULL)
    stage.take(state="exited", exit=ended(code=1))
    return stage


def leave(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10_000, 0, free_bytes))


def test_it_is_paused_with_the_reason(paused: Stage) -> None:
    job = paused.job()
    assert (job.status, job.failures) == (Status.PAUSED, 0)
    assert job.error == {"code": "disk_full", "message": FULL.message, "fix": FULL.fix, "needed_bytes": 5000}


def test_it_goes_on_by_itself_once_there_is_room(paused: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 4999)
    assert disk_guard.look() == []
    leave(monkeypatch, 5000)
    assert disk_guard.look() == [paused.run.job_id]
    assert (paused.job().status, paused.job().error) == (Status.PENDING, None)
    assert disk_guard.look() == []


def test_unless_that_is_switched_off_or_somebody_wants_it_paused(
    paused: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 9000)
    settings.put(SYSTEM, "storage.resume_when_room", False)
    assert disk_guard.look() == []
    settings.put(SYSTEM, "storage.resume_when_room", True)
    Job.objects.filter(pk=paused.run.job_id).update(desired=Desired.PAUSE)
    assert disk_guard.look() == []
    assert jobs.resume(SYSTEM, paused.run.job_id).error is None


def test_a_cancelled_one_stays_cancelled(tmp_path: Path, home: Path) -> None:
    stage = Stage(tmp_path, desired=Desired.CANCEL)
    stage.writer.emit(FULL)
    stage.take(state="exited", exit=ended(code=1))
    assert stage.job().status == Status.CANCELLED
