"""Cleaning takes what nobody owns, says how much, and never what a live job uses; the disk is told by kind."""

import fcntl
import gzip
import os
import shutil
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from controlplane import inner_jobs
from controlplane.errors import ConflictError
from controlplane.models import Attempt, AuditLine, Job, LanguageModel, Upload
from controlplane.models.jobs import Kind, Status
from controlplane.models.language_models import ModelState
from controlplane.services import cleaning, jobs, storage
from controlplane.services.disk_walk import measure
from tests.controlplane.evaluations import make_evaluation
from tests.factories import make_client, make_dataset, make_host, make_job, make_model, make_run

pytestmark = pytest.mark.django_db
OLD = time.time() - 90 * 86400


@pytest.fixture(autouse=True)
def _fresh(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(home / "elsewhere"))
    yield
    storage.forget()


def put(path: Path, size: int = 5000, changed_at: float = OLD) -> Path:
    """A file, it and its folders last changed at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    for entry in (path, path.parent):
        os.utime(entry, (changed_at, changed_at))
    return path


def found() -> dict[str, str]:
    return {leftover.path: leftover.kind for leftover in cleaning.plan()}


def test_orphans_of_every_kind_are_found_and_go(home: Path) -> None:
    run, model = make_run(), make_model()
    orphans = {
        f"models/{uuid4()}": "model", "datasets/" + "f" * 64: "dataset", "runs/999999": "run", "jobs/999999": "job",
        "tmp/uploads/" + str(uuid4()): "upload", "tmp/restore-x": "tmp",
    }  # fmt: skip
    for path in orphans:
        put(home / path / "file")
    put(home / "inbox" / "rejected" / "bad.jsonl")
    put(home / "inbox" / "half.part")
    assert found() == {**orphans, "inbox/rejected/bad.jsonl": "inbox", "inbox/half.part": "inbox"}
    result = cleaning.clean("ada")
    assert (result["things"], result["failed"]) == (8, [])
    assert result["freed_bytes"] >= 8 * 5000
    assert found() == {}
    assert (model.folder.is_dir(), run.training_set.folder.is_dir()) == (True, True)
    (line,) = AuditLine.objects.filter(action="storage.clean")
    assert (line.actor, line.detail["freed_bytes"]) == ("ada", result["freed_bytes"])


def test_each_thing_is_looked_at_once_more_by_itself(
    home: Path, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    make_model()
    for _ in range(20):
        put(home / "models" / str(uuid4()) / "file")
    with django_assert_max_num_queries(20 * 3 + 40):
        assert cleaning.clean("ada")["things"] == 20


def test_a_dry_run_changes_nothing(home: Path) -> None:
    make_run()
    path = put(home / "runs" / "999999" / "file")
    out = StringIO()
    call_command("clean", "--dry-run", stdout=out)
    assert "runs/999999" in out.getvalue()
    assert "Nothing was changed" in out.getvalue()
    assert path.exists()
    call_command("clean", stdout=out)
    assert "1 things" in out.getvalue()
    assert not path.exists()


def test_what_is_young_stays(home: Path) -> None:
    make_run()
    put(home / "runs" / "999999" / "file", changed_at=time.time() - 3600)
    assert found() == {}


def test_what_a_live_job_uses_stays(home: Path) -> None:
    running = make_run(status=Status.RUNNING)
    put(running.folder / "checkpoints" / ".step-8.part" / "file")
    fetching = make_model(state=ModelState.FETCHING, job=make_job("fetch", Status.RUNNING))
    put(fetching.folder.with_name(f".{fetching.folder.name}.part") / "file")
    assert found() == {}
    Job.objects.filter(pk__in=[running.job_id, fetching.job_id]).update(status=Status.FAILED)
    assert sorted(found().values()) == ["model", "run"]


def test_a_process_that_lives_is_believed_and_not_its_row(home: Path) -> None:
    make_job()
    attempt = home / "jobs" / "999999" / "attempts" / "1"
    lock = put(attempt / "lock", 0)
    os.utime(attempt.parent.parent, (OLD, OLD))
    os.utime(attempt.parent, (OLD, OLD))
    with lock.open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert found() == {}
    assert found() == {"jobs/999999": "job"}


def test_with_an_empty_data_base_nothing_is_an_orphan(home: Path) -> None:
    for path in (f"models/{uuid4()}", "datasets/" + "f" * 64, "runs/7", "jobs/7"):
        put(home / path / "file")
    assert found() == {}


def test_an_upload_that_stuck_goes_with_its_row(home: Path) -> None:
    upload = Upload.objects.create(filename="a.jsonl", bytes=10, created_by="ada")
    put(upload.folder / "1")
    cleaning.clean("ada")
    assert (upload.folder.exists(), Upload.objects.count()) == (False, 0)


def test_logs_of_earlier_attempts_are_compressed_and_can_be_read(home: Path) -> None:
    job, host = make_job("fetch", Status.DONE, attempt_count=2), make_host()
    for number in (1, 2):
        Attempt.objects.create(job=job, number=number, host=host, ended_at=timezone.now())
        put(home / "jobs" / str(job.pk) / "attempts" / str(number) / "log.txt", 0).write_bytes(b"said\n" * 4000)
        os.utime(home / "jobs" / str(job.pk) / "attempts" / str(number) / "log.txt", (OLD, OLD))
    folder = home / "jobs" / str(job.pk) / "attempts"
    result = cleaning.clean("ada")
    assert 0 < result["by_kind"]["log"] < 20_480
    assert gzip.decompress((folder / "1" / "log.txt.gz").read_bytes()) == b"said\n" * 4000
    assert ((folder / "1" / "log.txt").exists(), (folder / "2" / "log.txt").exists()) == (False, True)


def test_marks_of_what_is_gone_go_and_pins_stay(home: Path) -> None:
    run, model = make_run(status=Status.DONE), make_model()
    waiting, over = make_evaluation(status=Status.PENDING), make_evaluation()
    asked, answered = (f"evaluation-{row.pk}" for row in (waiting, over))
    folder = run.folder / "checkpoints" / "step-1"
    for name in ("pin", "snapshot", str(uuid4()), str(model.uuid), asked, answered):
        put(folder / f"keep.{name}", 0)
    cleaning.clean("ada")
    assert {path.name for path in folder.iterdir()} == {"keep.pin", f"keep.{model.uuid}", f"keep.{asked}"}


def test_what_came_into_use_since_it_was_planned_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model()
    uuid = uuid4()
    put(home / "models" / str(uuid) / "file")
    planned = cleaning.plan()
    LanguageModel.objects.create(uuid=uuid, name="just-now", source="directory", created_by="ada")
    monkeypatch.setattr(cleaning, "plan", lambda: planned)
    cleaning.clean("ada")
    assert (home / "models" / str(uuid) / "file").exists()


def test_only_one_cleans_at_a_time(home: Path) -> None:
    with (home / "clean.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="at work"):
            cleaning.clean("ada")


def test_a_file_that_was_old_when_it_was_rejected_stays_its_time(home: Path) -> None:
    rejected = put(home / "inbox" / "rejected" / "bad.jsonl")
    put(rejected.with_name("bad.jsonl.json"))
    reason = put(rejected.with_name("bad.jsonl.reason.txt"), changed_at=time.time())
    assert found() == {}
    os.utime(reason, (OLD, OLD))
    assert len(found()) == 3


def test_what_came_into_use_meanwhile_is_not_counted_as_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run()
    put(home / "runs" / "999999" / "file")
    planned = cleaning.plan()
    shutil.rmtree(home / "runs" / "999999")
    monkeypatch.setattr(cleaning, "plan", lambda: planned)
    assert cleaning.clean("ada")["things"] == 0


def test_the_api_plans_and_cleans_by_a_job(home: Path) -> None:
    make_run()
    put(home / "runs" / "999999" / "file")
    client = make_client("admin", "cleaner")
    body, kind = {"dry_run": True}, "application/json"
    assert make_client("use").post("/api/storage/clean", body, content_type=kind).status_code == 403
    assert make_client("use").get("/api/storage/leftovers").status_code == 403
    assert client.get("/api/storage/leftovers").json()["looked_at"] is None
    looks = [client.post("/api/storage/clean", body, content_type=kind) for _ in range(2)]
    assert {(answer.status_code, answer.json()["job_id"]) for answer in looks} == {(202, looks[0].json()["job_id"])}
    assert client.get("/api/storage/leftovers").json()["job_id"] == inner_jobs.work()
    planned = client.get("/api/storage/leftovers").json()
    assert (planned["things"], planned["items"][0]["path"], planned["job_id"]) == (1, "runs/999999", None)
    assert (planned["looked_at"] is not None, planned["bytes"] >= 5000) == (True, True)
    asked = client.post("/api/storage/clean", {}, content_type=kind)
    assert asked.status_code == 202
    assert client.post("/api/storage/clean", {}, content_type=kind).status_code == 409
    assert inner_jobs.work() == asked.json()["job_id"]
    job = jobs.get(asked.json()["job_id"])
    assert (job.kind, job.status) == (Kind.CLEAN, Status.DONE)
    assert not (home / "runs" / "999999").exists()
    assert client.get("/api/storage/leftovers").json()["looked_at"] is None, "what was found has gone"
    assert AuditLine.objects.get(action="storage.clean").actor == "key cleaner"


def test_the_disk_is_told_by_kind_with_names(home: Path) -> None:
    model, dataset = make_model("large"), make_dataset("small")
    put(model.folder / "model.safetensors", 100_000)
    put(home / "runs" / "999999" / "file", 50_000)
    put(home / "db.sqlite3", 20_000)
    told = make_client("read").get("/api/storage").json()
    assert told["measured_at"] is not None
    assert [row["kind"] for row in told["kinds"]][:3] == ["models", "checkpoints", "database"]
    first, second = told["largest"][:2]
    assert (first["title"], first["ref"], first["is_orphan"]) == ("large", "large", False)
    assert (second["path"], second["ref"], second["is_orphan"]) == ("runs/999999", None, True)
    assert any(row["ref"] == dataset.pk for row in told["largest"] if row["kind"] == "datasets")
    assert told["bytes"] == sum(row["bytes"] for row in told["kinds"]) >= 170_000
    assert told["disk_bytes"] >= told["free_bytes"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "outside" / "file", 100_000)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    assert measure(tmp_path / "inside").bytes < 10_000
    assert measure(tmp_path / "missing").files == 0
