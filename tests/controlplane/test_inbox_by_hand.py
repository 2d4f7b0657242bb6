"""The inbox by hand: a file that got stuck is tried again, one that is over is taken off the list."""

from pathlib import Path

import pytest

from controlplane.errors import ConflictError
from controlplane.models import InboxFile, Job, Run
from controlplane.models.access import SYSTEM
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import Status
from controlplane.services import inbox, inbox_work, jobs, settings
from tests.controlplane.inbox_rounds import only, pass_validation, put, template

pytestmark = pytest.mark.django_db


def test_a_rejected_file_is_put_back_and_taken_again(inbox_folder: Path) -> None:
    put(inbox_folder / "high" / "chats.jsonl")
    (inbox_folder / "high" / "chats.jsonl.json").write_text("no json")
    inbox_work.work()
    assert only().state == "rejected"
    (inbox_folder / "rejected" / "chats.jsonl.json").write_text("{}")
    inbox.retry(SYSTEM, only().pk)
    assert not list((inbox_folder / "rejected").iterdir())
    inbox_work.work()
    assert (only().state, only().priority) == ("validating", 2)


def test_a_rejected_dataset_is_checked_whole_when_its_file_is_tried_again(inbox_folder: Path) -> None:
    put(inbox_folder / "chats.jsonl")
    inbox_work.work()
    pass_validation(only().dataset, DatasetStatus.REJECTED, "Row 1 has no messages.")
    inbox_work.work()
    inbox.retry(SYSTEM, only().pk)
    assert Job.objects.get(status=Status.PENDING).config["level"] == "standard"
    pass_validation(only().dataset, DatasetStatus.REJECTED, "Row 2 has no messages.")
    inbox_work.work()
    assert (only().state, only().reason) == ("rejected", "Row 2 has no messages.")
    assert (inbox_folder / "rejected" / "chats.jsonl.reason.txt").read_text() == "Row 2 has no messages.\n"
    assert len(list((inbox_folder / "rejected").iterdir())) == 2


def test_a_run_that_cannot_be_made_is_said_and_tried_again_by_hand(inbox_folder: Path) -> None:
    put(inbox_folder / "chats.jsonl")
    settings.put(SYSTEM, "inbox.template", "nightly")
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    assert (only().state, "no run template 'nightly'" in only().reason) == ("rejected", True)
    template()
    inbox.retry(SYSTEM, only().pk)
    inbox_work.work()
    assert (only().state, Run.objects.count()) == ("queued", 1)
    assert list((inbox_folder / "rejected").iterdir()) == [], "its bytes are the dataset's"


def test_a_failed_run_fails_its_file_and_is_retried_with_it(inbox_folder: Path) -> None:
    template()
    put(inbox_folder / "chats.jsonl")
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    run = Run.objects.get()
    jobs.transition(run.job_id, Status.RUNNING, reason="test")
    jobs.transition(run.job_id, Status.FAILED, reason="test", error={"code": "x", "message": "It broke.", "fix": ""})
    inbox_work.work()
    assert (only().state, "It broke." in only().reason) == ("failed", True)
    inbox.retry(SYSTEM, only().pk)
    assert (only().state, jobs.get(run.job_id).status) == ("queued", Status.PENDING)


def test_a_file_that_is_over_is_dismissed_and_one_under_way_is_not(inbox_folder: Path) -> None:
    put(inbox_folder / "notes.docx", b"x")
    inbox_work.work()
    inbox.dismiss(SYSTEM, only().pk)
    assert not InboxFile.objects.exists()
    assert (inbox_folder / "rejected" / "notes.docx").exists(), "it stays where it was put"
    put(inbox_folder / "chats.jsonl")
    inbox_work.work()
    with pytest.raises(ConflictError, match="validating"):
        inbox.dismiss(SYSTEM, only().pk)
