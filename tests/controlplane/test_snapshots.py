"""Snapshots: what is copied is whole, the same content once; what comes back is what was there, or nothing does."""

import fcntl
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone
from fsspec.implementations.memory import MemoryFileSystem

from controlplane import inner_jobs
from controlplane.errors import ConflictError, InvalidInputError, UnavailableError
from controlplane.models import AuditLine, Checkpoint, Job, LanguageModel, Run
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Desired, Kind, Status
from controlplane.services import jobs, settings, snapshot_items, snapshot_return, snapshots
from controlplane.services.snapshot_store import DamagedError
from monitoring.files import hashes_of, write_json
from tests.factories import make_client, make_model, make_run
from training import checkpoints

pytestmark = pytest.mark.django_db
MODELS_ALONE = {"snapshots.database": False, "snapshots.datasets": False}


@pytest.fixture(params=["file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> Iterator[str]:
    where = f"file://{tmp_path}/away" if request.param == "file" else "memory://pilothouse-snapshots"
    settings.put_all(SYSTEM, {"snapshots.address": where, **MODELS_ALONE})
    yield where
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    settings.put_all(SYSTEM, {"snapshots.address": str(tmp_path / "away"), **MODELS_ALONE})
    return tmp_path / "away"


def write_model(name: str, weights: bytes = b"weights") -> LanguageModel:
    model = make_model(name, tags=["mine"], facts={"kind": "full"})
    (model.folder / "model.safetensors").write_bytes(weights)
    hashes = hashes_of(model.folder)
    write_json(model.folder / "pilothouse.json", {"id": name, "hashes": hashes})
    return model


def write_checkpoint(run: Run, step: int) -> Path:
    with checkpoints.writing(run.folder / "checkpoints", step) as temporary:
        (temporary / "model.safetensors").write_bytes(b"weights" * step)
        path, manifest, digest = checkpoints.publish(temporary, run.folder / "checkpoints", checkpoints.Manifest(step))
    Checkpoint.objects.create(
        run=run, step=step, path=f"checkpoints/step-{step}", bytes=manifest.size_bytes, loss=step * 0.1,
        manifest_sha256=digest, created_at=timezone.now(),
    )  # fmt: skip
    return path


def test_a_model_and_a_checkpoint_come_back_as_they_were(address: str) -> None:
    model = write_model("precious")
    run = make_run(status=Status.DONE, model=model)
    path = write_checkpoint(run, 10)
    before = {item: hashes_of(item) for item in (model.folder, path)}
    taken = snapshots.take()
    assert (taken["items"], taken["skipped"]) == (2, [])

    shutil.rmtree(model.folder)
    shutil.rmtree(path)
    run.checkpoints.update(gone_at=timezone.now())
    for key in (f"model/{model.uuid}", f"checkpoint/{run.pk}/10"):
        snapshots.restore(taken["snapshot"], key)
    assert {item: hashes_of(item) for item in before} == before
    assert checkpoints.verify(path).step == 10
    row = run.checkpoints.get()
    assert (row.gone_at, row.loss) == (None, 1.0)
    with pytest.raises(ConflictError, match="is there already"):
        snapshots.restore(taken["snapshot"], f"model/{model.uuid}")


def test_a_deleted_model_is_listed_again(address: str) -> None:
    model = write_model("precious")
    LanguageModel.objects.update(family="dear", version=2)
    taken = snapshots.take()
    shutil.rmtree(model.folder)
    LanguageModel.objects.all().delete()
    snapshots.restore(taken["snapshot"], f"model/{model.uuid}")
    back = LanguageModel.objects.get(name="precious")
    assert (back.family, back.version) == ("dear", 2)
    assert (back.uuid, back.state, back.tags, back.facts) == (model.uuid, "ready", ["mine"], {"kind": "full"})


def test_files_whose_row_cannot_be_made_are_not_in_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model("precious")
    taken = snapshots.take()
    shutil.rmtree(model.folder)
    LanguageModel.objects.all().delete()
    with monkeypatch.context() as newer:
        newer.setattr(snapshot_return, "MODEL_FIELDS", (*snapshot_items.MODEL_FIELDS, "of_a_later_version"))
        with pytest.raises(ConflictError, match=r"facts of .* can't be read: KeyError"):
            snapshots.restore(taken["snapshot"], f"model/{model.uuid}")
    assert not model.folder.exists()
    snapshots.restore(taken["snapshot"], f"model/{model.uuid}")
    assert LanguageModel.objects.get().name == "precious"


def test_what_is_the_same_is_copied_once(address: str) -> None:
    write_model("first")
    first = snapshots.take()
    again = snapshots.take()
    assert first["copied_bytes"] == first["bytes"] > 0
    assert (again["copied_bytes"], again["bytes"]) == (0, first["bytes"])
    write_model("second", b"other weights")
    assert 0 < snapshots.take()["copied_bytes"] < 400


def test_old_ones_go_and_with_them_what_nobody_else_has(address: str) -> None:
    settings.put(SYSTEM, "snapshots.keep", 2)
    gone = write_model("gone", b"g" * 1000)
    names = [snapshots.take()["snapshot"]]
    write_model("stays")
    shutil.rmtree(gone.folder)
    gone.delete()
    names.append(snapshots.take()["snapshot"])
    last = snapshots.take()
    assert (last["removed_snapshots"], last["freed_bytes"] >= 1000) == (1, True)
    assert [row["name"] for row in snapshots.list_snapshots()] == [last["snapshot"], names[1]]
    stays = LanguageModel.objects.get(name="stays")
    shutil.rmtree(stays.folder)
    snapshots.restore(names[1], f"model/{stays.uuid}")
    assert (stays.folder / "model.safetensors").read_bytes() == b"weights"


def blob_of(folder: Path, content: bytes) -> Path:
    return next(path for path in folder.glob("blobs/*/*") if path.read_bytes() == content)


def test_only_one_is_taken_at_a_time(folder: Path, home: Path) -> None:
    write_model("precious")
    with (home / "snapshots.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="Another snapshot is at work"):
            snapshots.take()
    assert snapshots.take()["items"] == 1


def test_a_checkpoint_comes_back_to_its_own_folder_whatever_the_list_says(folder: Path) -> None:
    run = make_run(status=Status.DONE)
    path = write_checkpoint(run, 10)
    run.checkpoints.update(path="../../elsewhere")
    shutil.copytree(path, run.folder / "../../elsewhere")
    name = snapshots.take()["snapshot"]
    shutil.rmtree(path)
    snapshots.restore(name, f"checkpoint/{run.pk}/10")
    assert run.checkpoints.get().path == "checkpoints/step-10"


@pytest.mark.parametrize("damage", ["cut", "flip", "lose"])
def test_a_torn_copy_is_refused_and_leaves_nothing(folder: Path, home: Path, damage: str) -> None:
    model = write_model("precious", b"w" * 500)
    taken = snapshots.take()
    blob = blob_of(folder, b"w" * 500)
    if damage == "lose":
        blob.unlink()
    else:
        blob.write_bytes(b"w" * 200 if damage == "cut" else b"v" + b"w" * 499)
    shutil.rmtree(model.folder)
    with pytest.raises(DamagedError):
        snapshots.restore(taken["snapshot"], f"model/{model.uuid}")
    assert not model.folder.exists()
    assert list((home / "tmp").iterdir()) == []


def test_a_torn_list_is_told_and_frees_nothing(folder: Path) -> None:
    write_model("precious")
    taken = snapshots.take()
    path = folder / "snapshots" / f"{taken['snapshot']}.json"
    value = json.loads(path.read_text())
    value["items"][0]["title"] = "another"
    path.write_text(json.dumps(value))
    assert "torn" in snapshots.list_snapshots()[0]["fault"]
    blobs = sorted(folder.glob("blobs/*/*"))
    LanguageModel.objects.all().delete()
    snapshots.take()
    assert sorted(folder.glob("blobs/*/*")) == blobs


def test_what_is_damaged_here_is_left_out_and_said(folder: Path) -> None:
    run = make_run(status=Status.DONE)
    path = write_checkpoint(run, 10)
    (path / "model.safetensors").write_bytes(b"weighty" * 10)
    taken = snapshots.take()
    assert [left["item"] for left in taken["skipped"]] == [f"run {run.pk} · {run.name}, step 10"]
    assert not any("weighty" in blob.read_text() for blob in folder.glob("blobs/*/*"))
    assert list(path.glob("keep.*")) == []


def test_the_data_base_is_copied_while_it_is_written_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "live.sqlite3"
    with closing(sqlite3.connect(path)) as live:
        live.execute("PRAGMA journal_mode=WAL")
        live.execute("CREATE TABLE t (n)")
        live.execute("INSERT INTO t VALUES (1)")
        live.commit()
        live.execute("INSERT INTO t VALUES (2)")  # not committed: no part of the copy
        monkeypatch.setattr(snapshot_items, "database_file", lambda: path)
        settings.put(SYSTEM, "snapshots.database", True)
        taken = snapshots.take()
    restored = snapshots.restore(taken["snapshot"], "database")
    with closing(sqlite3.connect(Path(restored["path"]) / "db.sqlite3")) as back:
        assert back.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_names_that_lead_elsewhere_are_refused(folder: Path, home: Path) -> None:
    model = write_model("precious")
    place = snapshots.store()
    taken = place.read(snapshots.take()["snapshot"])
    item = {**taken.items[0], "files": {"../../escaped": taken.items[0]["files"]["config.json"]}}
    forged = type(taken)("20000101T000000Z", taken.created_at, [item])
    place.write(forged)
    shutil.rmtree(model.folder)
    with pytest.raises(ConflictError, match="no place"):
        snapshots.restore(forged.name, item["key"])
    assert not (home / "escaped").exists()


@pytest.mark.parametrize(
    "value", ["s3://key:secret@bucket/x", "sftp://me@host/x", "s3://b/x?token=secret", "simplecache::s3://b/x", "there"]
)
def test_an_address_holds_no_secret(value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        settings.put(SYSTEM, "snapshots.address", value)
    assert "secret" not in caught.value.message
    assert "secret" not in str(list(AuditLine.objects.values_list("detail", flat=True)))


def test_an_address_that_nobody_knows_is_a_sentence(home: Path) -> None:
    settings.put(SYSTEM, "snapshots.address", "nowhere://there")
    with pytest.raises(UnavailableError, match="nowhere://there can't be used"):
        snapshots.list_snapshots()


def test_the_days_snapshot_is_queued_once_and_taken_by_the_duty(folder: Path) -> None:
    write_model("precious")
    assert snapshots.plan_due() is not None
    assert snapshots.plan_due() is None
    done = jobs.get(inner_jobs.work() or 0)
    assert done.result is not None
    assert (done.status, done.kind, done.result["items"]) == (Status.DONE, Kind.BACKUP, 1)
    assert snapshots.plan_due() is None
    Job.objects.update(created_at=timezone.now() - timedelta(days=1, minutes=1))
    assert snapshots.plan_due() is not None
    settings.put(SYSTEM, "snapshots.at", "")
    inner_jobs.work()
    Job.objects.update(created_at=timezone.now() - timedelta(days=2))
    assert snapshots.plan_due() is None
    assert AuditLine.objects.filter(action="snapshot.take").count() == 2


def test_one_that_a_crash_cut_off_is_done_again_and_a_cancelled_one_is_not(folder: Path) -> None:
    write_model("precious")
    job = snapshots.queue_take(SYSTEM)
    jobs.transition(job.pk, Status.RUNNING, reason="before a crash")
    assert inner_jobs.work() == job.pk
    assert jobs.get(job.pk).status == Status.DONE
    other = snapshots.queue_take(SYSTEM)
    jobs.transition(other.pk, Status.RUNNING, reason="before a crash")
    Job.objects.filter(pk=other.pk).update(desired=Desired.CANCEL)
    assert inner_jobs.work() is None
    assert jobs.get(other.pk).status == Status.CANCELLED


def test_one_that_fails_says_why(home: Path) -> None:
    settings.put(SYSTEM, "snapshots.address", "nowhere://there")
    job = snapshots.queue_take(SYSTEM)
    inner_jobs.work()
    failed = jobs.get(job.pk)
    assert failed.status == Status.FAILED
    assert failed.error is not None
    assert "can't be used" in failed.error["message"]


def test_the_api_takes_lists_and_restores(folder: Path) -> None:
    model = write_model("precious")
    client = make_client("admin")
    answer = client.post("/api/storage/snapshots")
    assert answer.status_code == 202, answer.content
    assert client.post("/api/storage/snapshots").status_code == 409
    inner_jobs.work()
    (listed,) = client.get("/api/storage/snapshots").json()
    path = f"/api/storage/snapshots/{listed['name']}"
    (item,) = client.get(path).json()["items"]
    shutil.rmtree(model.folder)
    body = {"item": item["key"]}
    assert make_client("use").post(f"{path}/restore", body, content_type="application/json").status_code == 403
    assert client.post(f"{path}/restore", body, content_type="application/json").status_code == 202
    inner_jobs.work()
    assert (model.folder / "model.safetensors").read_bytes() == b"weights"
    assert client.get("/api/storage/snapshots/20000101T000000Z").status_code == 404


def test_the_command_does_it_in_a_terminal(folder: Path) -> None:
    model = write_model("precious")

    def said(*words: str) -> str:
        out = StringIO()
        call_command("snapshots", *words, stdout=out)
        return out.getvalue()

    name = said("take").split()[0]
    assert said("list").startswith(f"{name}  1 items")
    key = said("show", name).split()[0]
    shutil.rmtree(model.folder)
    assert str(model.folder) in said("restore", name, key)
    with pytest.raises(CommandError, match="There is no snapshot"):
        said("restore", "20000101T000000Z", key)
