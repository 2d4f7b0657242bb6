"""Datasets over the API: facts, report, preview, download, deleting, and what the validation job reports."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, connection
from django.test import Client

from controlplane.errors import ConflictError
from controlplane.kinds.validate import ValidateKind
from controlplane.models import Attempt, Dataset, LiveMessage
from controlplane.models.access import SYSTEM
from controlplane.models.jobs import Status
from controlplane.services import dataset_checks, dataset_intake, datasets
from tests import factories
from training.config.loader import parse_config, to_dict

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls"), pytest.mark.usefixtures("home")]

REPORT = {
    "faults": [{"line": 2, "code": "no_assistant", "message": "No message is the assistant's."}],
    "fault_count": 1,
    "tokens": {"min": 3, "p50": 5, "p95": 9, "max": 9, "total": 51, "sampled": False},
}


@pytest.fixture
def reader() -> Client:
    """A client that may look."""
    return factories.make_client("read")


def test_a_dataset_is_listed_and_told_with_its_report(reader: Client) -> None:
    dataset = factories.make_dataset("chats", report=REPORT)
    listed = reader.get("/api/datasets").json()["datasets"]
    assert [(item["id"], item["name"], item["version"], item["status"]) for item in listed] == [
        (dataset.pk, "chats", 1, "ready")
    ]
    assert "report" not in listed[0]
    told = reader.get(f"/api/datasets/{dataset.pk}").json()
    assert told["examples"] == 3
    assert told["sha256"] == dataset.sha256
    assert told["report"] == REPORT


def test_a_dataset_is_found_by_id_and_by_name_in_its_newest_version() -> None:
    first, second = factories.make_dataset("chats"), factories.make_dataset("chats")
    number = factories.make_dataset("2024")
    assert datasets.get(first.pk) == datasets.get(str(first.pk)) == first
    assert datasets.get("chats") == second
    assert datasets.get("2024") == number


def test_a_preview_pages_through_the_rows(reader: Client) -> None:
    rows = factories.chat_rows(5)
    dataset = factories.make_dataset(rows=rows)
    answer = reader.get(f"/api/datasets/{dataset.pk}/preview?offset=3&limit=10").json()
    assert answer == {"offset": 3, "total": 5, "rows": rows[3:]}


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "limit=201", "limit=x"])
def test_a_preview_of_impossible_figures_is_refused(reader: Client, query: str) -> None:
    dataset = factories.make_dataset()
    assert reader.get(f"/api/datasets/{dataset.pk}/preview?{query}").status_code == 422


def test_a_preview_before_the_validation_is_a_conflict(reader: Client) -> None:
    dataset = factories.make_dataset(status="validating")
    response = reader.get(f"/api/datasets/{dataset.pk}/preview")
    assert response.status_code == 409
    assert "being validated" in response.json()["detail"]


def test_a_download_is_the_file_as_it_came(reader: Client) -> None:
    dataset = factories.make_dataset(filename='we"ird\u00e4.jsonl')
    response: Any = reader.get(f"/api/datasets/{dataset.pk}/download")
    assert async_to_sync(whole)(response) == (dataset.folder / "source.jsonl").read_bytes()
    assert response["Content-Type"] == "application/x-ndjson"
    assert response["Content-Disposition"].startswith("attachment;")
    assert "\n" not in response["Content-Disposition"]
    assert int(response["Content-Length"]) == dataset.bytes


async def whole(response: Any) -> bytes:
    """All that a streamed answer holds."""
    return b"".join([block async for block in response.streaming_content])


def test_a_download_whose_file_has_gone_is_404(reader: Client) -> None:
    dataset = factories.make_dataset()
    (dataset.folder / "source.jsonl").unlink()
    response = reader.get(f"/api/datasets/{dataset.pk}/download")
    assert response.status_code == 404
    assert "no longer on the disk" in response.json()["detail"]


@pytest.mark.parametrize("path", ["", "/preview", "/download"])
def test_an_unknown_dataset_is_404(reader: Client, path: str) -> None:
    assert reader.get(f"/api/datasets/999999{path}").status_code == 404


def test_deleting_takes_row_and_files(home: Path) -> None:
    dataset = factories.make_dataset(created_by="key mine")
    client = factories.make_client("use", name="mine")
    assert client.delete(f"/api/datasets/{dataset.pk}").status_code == 204
    assert not Dataset.objects.exists()
    assert list((home / "datasets").iterdir()) == []
    assert list((home / "tmp").iterdir()) == []
    assert client.delete(f"/api/datasets/{dataset.pk}").status_code == 404


def test_deleting_what_others_made_needs_an_admin() -> None:
    dataset = factories.make_dataset()
    assert factories.make_client("read").delete(f"/api/datasets/{dataset.pk}").status_code == 403
    assert factories.make_client("use").delete(f"/api/datasets/{dataset.pk}").status_code == 403
    assert factories.make_client("admin").delete(f"/api/datasets/{dataset.pk}").status_code == 204


def test_deleting_is_refused_while_a_run_uses_it() -> None:
    run = factories.make_run("first")
    response = factories.make_client("admin").delete(f"/api/datasets/{run.dataset_id}")
    assert response.status_code == 409
    assert "first" in response.json()["detail"]
    assert run.training_set.rows_path.exists()


def test_deleting_is_refused_while_a_run_evaluates_on_it() -> None:
    dataset = factories.make_dataset("held out")
    config = to_dict(parse_config({"data": {"eval_dataset": str(dataset.pk)}}))
    factories.make_run("first", dataset=factories.make_dataset(rows=factories.chat_rows(4)), config=config)
    response = factories.make_client("admin").delete(f"/api/datasets/{dataset.pk}")
    assert response.status_code == 409
    assert "evaluation set of run" in response.json()["detail"]
    assert dataset.rows_path.exists()


def test_files_are_gone_before_others_see_the_row_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds no row may put the same bytes in place at once: nothing that is there then is removed later."""
    dataset = factories.make_dataset()
    source = home / "tmp" / "again.jsonl"
    data = (dataset.folder / "source.jsonl").read_bytes()
    source.write_bytes(data)
    remove, removed = shutil.rmtree, []

    def remove_late(path: Path, **options: Any) -> None:
        removed.append(path)
        if len(removed) == 1:
            again(source, dataset.sha256)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", remove_late)
    datasets.delete(SYSTEM, dataset.pk)
    assert (dataset.folder / "source.jsonl").read_bytes() == data
    assert Dataset.objects.get().sha256 == dataset.sha256


def test_a_deletion_that_fails_puts_the_files_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = factories.make_dataset()
    before = sorted(entry.name for entry in dataset.folder.iterdir())
    monkeypatch.setattr(connection, "savepoint_commit", fail)  # the test's own transaction is around the service's
    with pytest.raises(DatabaseError):
        datasets.delete(SYSTEM, dataset.pk)
    monkeypatch.undo()
    assert sorted(entry.name for entry in dataset.folder.iterdir()) == before


def fail(*_: Any) -> None:
    raise DatabaseError("the disk is full")


@pytest.mark.parametrize("left", [{}, {"rows.jsonl": b"{}"}, {"source.jsonl": b"half"}])
def test_a_folder_that_is_not_whole_does_not_pass_for_the_file(home: Path, left: dict[str, bytes]) -> None:
    data = factories.jsonl(factories.chat_rows())
    sha256 = hashlib.sha256(data).hexdigest()
    folder = home / "datasets" / sha256
    folder.mkdir(parents=True)
    for name, content in left.items():
        (folder / name).write_bytes(content)
    source = home / "tmp" / "whole.jsonl"
    source.write_bytes(data)
    dataset = again(source, sha256)
    assert [(entry.name, entry.read_bytes()) for entry in dataset.folder.iterdir()] == [("source.jsonl", data)]
    assert list((home / "tmp").iterdir()) == [source]


def again(source: Path, sha256: str) -> Dataset:
    """Takes a file in."""
    dataset, _ = dataset_intake.adopt(
        SYSTEM, source, sha256=sha256, filename="chats.jsonl", name="again", eval_fraction=0.1
    )
    return dataset


def test_deleting_is_refused_while_it_is_being_validated() -> None:
    job = factories.make_job("validate", Status.RUNNING)
    dataset = factories.make_dataset(status="validating", job=job)
    response = factories.make_client("admin").delete(f"/api/datasets/{dataset.pk}")
    assert response.status_code == 409
    assert f"job {job.pk}" in response.json()["detail"]


def test_a_finished_validation_is_stored_and_told() -> None:
    dataset = factories.make_dataset(status="validating")
    dataset_checks.finished(dataset.pk, {"status": "ready", "examples": 3, "reason": "", "report": REPORT})
    dataset.refresh_from_db()
    assert (dataset.status, dataset.examples, dataset.report) == ("ready", 3, REPORT)
    message = LiveMessage.objects.filter(topic="datasets").latest("seq")
    assert (message.kind, message.data["id"], message.data["status"]) == ("status", dataset.pk, "ready")


def test_a_rejected_dataset_says_why(reader: Client) -> None:
    dataset = factories.make_dataset(status="validating")
    values = {"status": "rejected", "examples": 0, "reason": "Half of its rows are faulty.", "report": REPORT}
    dataset_checks.finished(dataset.pk, values)
    told = reader.get(f"/api/datasets/{dataset.pk}").json()
    assert (told["status"], told["reason"]) == ("rejected", "Half of its rows are faulty.")
    assert "rejected" in reader.get(f"/api/datasets/{dataset.pk}/preview").json()["detail"]


def test_a_validation_that_failed_rejects_the_dataset() -> None:
    dataset = factories.make_dataset(status="validating")
    dataset_checks.failed(dataset.pk, {"code": "disk_full", "message": "The disk is full.", "fix": "Free space."})
    dataset.refresh_from_db()
    assert dataset.status == "rejected"
    assert dataset.reason == "It could not be validated: The disk is full. Free space."


def test_news_of_a_dataset_that_has_gone_is_no_error() -> None:
    dataset_checks.finished(999999, {"status": "ready", "examples": 1, "reason": "", "report": {}})
    dataset_checks.failed(999999, {"message": "x"})


# --- Levels -----------------------------------------------------------------------------------------------------------


def test_a_level_is_asked_for_by_the_api(reader: Client) -> None:
    held, dataset = factories.make_dataset("held"), factories.make_dataset("chats", report=REPORT)
    wanted = {"level": "deep", "profile": "plain", "eval_dataset": held.pk}
    path = f"/api/datasets/{dataset.pk}/validate"
    assert reader.post(path, wanted, content_type="application/json").status_code == 403
    answer = factories.make_client("use").post(path, wanted, content_type="application/json")
    assert answer.status_code == 202
    dataset.refresh_from_db()
    assert dataset.job is not None
    assert answer.json() == {"job_id": dataset.job.pk, "dataset_id": dataset.pk, "level": "deep"}
    assert dataset.job.config == {"dataset": dataset.pk, **wanted}
    assert (dataset.status, dataset.job.title) == ("ready", "Validate chats v1 (deep)")
    spec = ValidateKind().spec(dataset.job, Attempt(job=dataset.job, number=1, host=factories.make_host()))
    assert (spec.config["level"], spec.config["eval_folder"]) == ("deep", str(held.folder))
    assert (spec.config["examples"], spec.config["filename"]) == (3, "chats.jsonl")


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        ({"level": "thorough"}, 422, "Levels are quick, standard, deep"),
        ({"level": "quick", "profile": "plain"}, 422, "belong to the level deep"),
        ({"level": "deep", "profile": "nobody's"}, 422, "There is no profile"),
        ({"level": "deep", "eval_dataset": 999999}, 404, "There is no dataset"),
    ],
)
def test_a_level_that_makes_no_sense_is_refused(wanted: dict[str, Any], status: int, words: str) -> None:
    dataset = factories.make_dataset()
    path = f"/api/datasets/{dataset.pk}/validate"
    answer = factories.make_client("use").post(path, wanted, content_type="application/json")
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True)
    dataset.refresh_from_db()
    assert dataset.job is None


def test_a_check_is_refused_where_it_cannot_be_had_now() -> None:
    rejected = factories.make_dataset(status="rejected")
    with pytest.raises(ConflictError, match="is rejected; the level deep reads rows that are ready"):
        dataset_checks.validate(SYSTEM, rejected, "deep")
    run = factories.make_run("first")
    with pytest.raises(ConflictError, match=r"Run .* trains on"):
        dataset_checks.validate(SYSTEM, run.training_set)
    dataset_checks.validate(SYSTEM, run.training_set, "quick")
    with pytest.raises(ConflictError, match="is being checked by job"):
        dataset_checks.validate(SYSTEM, run.training_set, "deep")


def test_findings_of_other_levels_join_the_report_and_leave_the_status() -> None:
    dataset = factories.make_dataset(report=REPORT)
    dataset_checks.finished(dataset.pk, {"level": "deep", "report": {"rows": 3}})
    dataset_checks.finished(dataset.pk, {"level": "quick", "report": {"passed": False, "reason": "A reason."}})
    dataset_checks.failed(dataset.pk, {"message": "It died."}, "deep")
    dataset.refresh_from_db()
    assert (dataset.status, dataset.reason, dataset.examples) == ("ready", "", 3)
    assert dataset.report is not None
    assert dataset.report["fault_count"] == REPORT["fault_count"]
    assert dataset.report["deep"]["rows"] == 3
    assert dataset.report["quick"]["reason"] == "A reason."


@pytest.mark.parametrize("passed", [True, False])
def test_a_file_taken_in_quickly_is_checked_wholly_only_when_it_passes(home: Path, passed: bool) -> None:
    data = factories.jsonl(factories.chat_rows())
    source = home / "tmp" / "inbox.jsonl"
    source.write_bytes(data)
    dataset, _ = dataset_intake.adopt(
        SYSTEM, source, sha256=hashlib.sha256(data).hexdigest(), filename="inbox.jsonl", name="inbox",
        eval_fraction=0.1, level="quick",
    )  # fmt: skip
    first = dataset.job
    assert first is not None
    assert (dataset.status, first.config["level"]) == ("validating", "quick")
    report = {"passed": passed, "reason": "" if passed else "Bad."}
    dataset_checks.finished(dataset.pk, {"level": "quick", "report": report})
    dataset.refresh_from_db()
    assert (dataset.status, dataset.reason) == (("validating", "") if passed else ("rejected", "Bad."))
    assert dataset.job is not None
    assert (dataset.job != first, dataset.job.config["level"]) == (passed, "standard" if passed else "quick")
