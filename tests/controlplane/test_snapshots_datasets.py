"""Datasets in snapshots: rows, report and lineage come back, and models keep the link to what they were made of."""

import shutil
from pathlib import Path

import pytest
from django.utils import timezone

from controlplane.errors import ConflictError
from controlplane.models import Dataset, LanguageModel
from controlplane.models.access import SYSTEM
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import Status
from controlplane.services import settings, snapshots
from monitoring.files import hashes_of, write_json
from tests.factories import chat_rows, make_dataset, make_job, make_model, make_run

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, home: Path) -> Path:
    settings.put_all(SYSTEM, {"snapshots.address": str(tmp_path / "away"), "snapshots.database": False})
    return tmp_path / "away"


def write_dataset(name: str, rows: int = 3) -> Dataset:
    """A dataset with all that its check leaves beside the rows."""
    dataset = make_dataset(name, rows=chat_rows(rows), generator="gen", generator_version="7", rejected_rows=1)
    Dataset.objects.filter(pk=dataset.pk).update(report={"rows": rows})
    write_json(dataset.folder / "report.json", {"rows": rows})
    write_json(dataset.folder / "lineage.json", {"generator": "gen"})
    return dataset


def lose(dataset: Dataset) -> None:
    shutil.rmtree(dataset.folder)
    dataset.delete()


def test_a_dataset_comes_back_with_rows_report_and_lineage(home: Path) -> None:
    dataset = write_dataset("chats")
    before = hashes_of(dataset.folder)
    name = snapshots.take()["snapshot"]
    lose(dataset)
    snapshots.restore(name, f"dataset/{dataset.sha256}")
    back = Dataset.objects.get(sha256=dataset.sha256)
    assert hashes_of(back.folder) == before
    assert {"report.json", "lineage.json", "rows.jsonl"} <= set(before)
    assert (back.name, back.version, back.status, back.examples) == ("chats", 1, DatasetStatus.READY, dataset.examples)
    assert (back.generator, back.report, back.created_at) == ("gen", {"rows": 3}, dataset.created_at)
    with pytest.raises(ConflictError, match="is there already"):
        snapshots.restore(name, f"dataset/{dataset.sha256}")


def test_one_whose_version_is_taken_becomes_the_next(home: Path) -> None:
    dataset = write_dataset("chats")
    name = snapshots.take()["snapshot"]
    lose(dataset)
    write_dataset("chats", rows=5)
    snapshots.restore(name, f"dataset/{dataset.sha256}")
    assert Dataset.objects.get(sha256=dataset.sha256).version == 2


def test_files_that_were_lost_come_back_to_the_row_that_is_there(home: Path) -> None:
    dataset = write_dataset("chats")
    run = make_run(dataset=dataset, status=Status.DONE)
    name = snapshots.take()["snapshot"]
    shutil.rmtree(dataset.folder)
    Dataset.objects.update(job=make_job("validate", Status.RUNNING))
    with pytest.raises(ConflictError, match="is being checked"):
        snapshots.restore(name, f"dataset/{dataset.sha256}")
    Dataset.objects.update(job=None)
    snapshots.restore(name, f"dataset/{dataset.sha256}")
    run.refresh_from_db()
    assert (run.dataset_id, run.training_set.rows_path.is_file()) == (dataset.pk, True)


def test_datasets_that_are_not_ready_or_not_wanted_stay_out(home: Path) -> None:
    write_dataset("chats")
    other = write_dataset("others", rows=4)
    Dataset.objects.filter(pk=other.pk).update(status=DatasetStatus.REJECTED)
    assert [item["title"] for item in snapshots.facts(snapshots.get(snapshots.take()["snapshot"]))["items"]] == [
        "chats v1"
    ]
    settings.put(SYSTEM, "snapshots.datasets", False)
    assert snapshots.take()["items"] == 0


def test_a_restored_model_is_linked_with_its_run_and_dataset_where_they_are_on_the_books(home: Path) -> None:
    run = make_run(dataset=write_dataset("chats"), status=Status.DONE)
    model = make_model("made", run=run, dataset=run.dataset, source="run", created_at=timezone.now())
    name = snapshots.take()["snapshot"]

    def restored() -> LanguageModel:
        shutil.rmtree(model.folder)
        LanguageModel.objects.filter(pk=model.pk).delete()
        snapshots.restore(name, f"model/{model.uuid}")
        return LanguageModel.objects.get(pk=model.pk)

    back = restored()
    assert (back.run, back.dataset) == (run, run.dataset)
    lost = run.training_set
    run.delete()
    lose(lost)
    back = restored()
    assert (back.run, back.dataset) == (None, None)
