"""The storage page, cleaning from it, snapshots and restoring from theirs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import inner_jobs
from controlplane.models.access import SYSTEM
from controlplane.services import settings as product_settings
from controlplane.services import snapshots, storage
from tests.controlplane.page_reading import read
from tests.factories import client_of, make_model, make_run

pytestmark = pytest.mark.django_db
OLD = 1_700_000_000


@pytest.fixture(autouse=True)
def _fresh(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PILOTHOUSE_CACHE", str(home / "elsewhere"))
    yield
    storage.forget()


def test_what_is_nobodys_is_seen_and_cleaned(home: Path) -> None:
    run = make_run(name="a run of mine")
    for path in (home / "runs" / "999999" / "file", run.folder / "file"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 50_000)
        for entry in (path, path.parent):
            os.utime(entry, (OLD, OLD))
    admin = client_of("admin")
    page = read(admin.get("/settings/storage"))
    assert (page.refused, page.unbalanced) == ([], [])
    assert "a run of mine" in page.source
    assert "nobody's" in page.source.replace("&#x27;", "'")
    assert "Nobody has looked" in admin.get("/settings/storage/leftovers").content.decode()
    admin.post("/settings/storage/look")
    assert "is being looked through" in admin.get("/settings/storage/leftovers").content.decode()
    inner_jobs.work()
    page = read(admin.get("/settings/storage/leftovers"))
    assert (page.refused, page.unbalanced) == ([], [])
    assert "runs/999999" in page.source
    admin.post("/settings/storage/clean")
    inner_jobs.work()
    assert not (home / "runs" / "999999").exists()
    assert run.folder.exists()
    assert "were freed" in admin.get("/settings/storage").content.decode()
    assert "Nobody has looked since the last cleaning" in admin.get("/settings/storage/leftovers").content.decode()
    admin.post("/settings/storage/look")
    inner_jobs.work()
    assert "There is nothing to clean" in admin.get("/settings/storage/leftovers").content.decode()


def test_a_reader_sees_the_disk_and_cleans_nothing() -> None:
    reader = client_of("read")
    assert "Cleaning needs the role admin" in reader.get("/settings/storage").content.decode()
    assert reader.get("/settings/storage/leftovers").status_code == 403
    for address in ("storage/clean", "storage/look", "snapshots/take"):
        assert reader.post(f"/settings/{address}").status_code == 403


def test_a_snapshot_is_taken_seen_and_restored(tmp_path: Path, home: Path) -> None:
    admin, model = client_of("admin"), make_model("precious")
    assert "copied to no other place yet" in admin.get("/settings/snapshots").content.decode()
    product_settings.put_all(SYSTEM, {"snapshots.address": str(tmp_path / "away"), "snapshots.database": False})
    assert "None has been taken yet" in admin.get("/settings/snapshots").content.decode()
    admin.post("/settings/snapshots/take")
    inner_jobs.work()
    (name,) = [row["name"] for row in snapshots.list_snapshots()]
    assert name in admin.get("/settings/snapshots").content.decode()
    page = read(admin.get(f"/settings/snapshots/{name}"))
    assert (page.refused, page.unbalanced) == ([], [])
    assert "precious" in page.source
    shutil.rmtree(model.folder)
    admin.post(f"/settings/snapshots/{name}/restore", {"item": f"model/{model.uuid}"})
    inner_jobs.work()
    assert (model.folder / "config.json").exists()


def test_an_address_that_fails_is_said(home: Path) -> None:
    product_settings.put(SYSTEM, "snapshots.address", "nowhere://there")
    assert "nowhere://there can&#x27;t be used" in client_of("admin").get("/settings/snapshots").content.decode()
