"""The inbox: what can be no dataset goes aside, with the reason beside it."""

from pathlib import Path

import pytest

from controlplane.models import Dataset
from controlplane.models.datasets import DatasetStatus
from controlplane.services import inbox_files, inbox_work
from tests.controlplane.inbox_rounds import only, pass_validation, put

pytestmark = pytest.mark.django_db


def test_a_link_is_refused_and_what_it_points_to_stays(inbox_folder: Path) -> None:
    secret = put(inbox_folder.parent / "secret.jsonl")
    (inbox_folder / "link.jsonl").symlink_to(secret)
    inbox_work.work()
    row = only()
    assert (row.state, "symbolic link" in row.reason) == ("rejected", True)
    assert secret.exists()
    assert (inbox_folder / "rejected" / "link.jsonl").is_symlink()
    assert "symbolic link" in (inbox_folder / "rejected" / "link.jsonl.reason.txt").read_text()
    assert not Dataset.objects.exists()


def test_a_file_swapped_for_a_link_becomes_no_dataset(inbox_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = put(inbox_folder.parent / "secret.jsonl")
    path, take = put(inbox_folder / "chats.jsonl"), inbox_files.take

    def swapped(found: inbox_files.Found, row_id: int) -> None:
        path.unlink()
        path.symlink_to(secret)
        take(found, row_id)

    monkeypatch.setattr(inbox_files, "take", swapped)
    inbox_work.work()
    assert (only().state, "a link" in only().reason) == ("rejected", True)
    assert not Dataset.objects.exists()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("notes.docx", b"x", "no suffix"), ("empty.jsonl", b"", "is empty"), ("odd\n.jsonl", b"{}", "can't be shown")],
)
def test_what_can_be_no_dataset_is_put_aside_with_the_reason(
    inbox_folder: Path, name: str, data: bytes, words: str
) -> None:
    put(inbox_folder / name, data)
    inbox_work.work()
    row = only()
    assert (row.state, words in row.reason) == ("rejected", True)
    aside = inbox_folder / "rejected" / row.rejected_as
    assert aside.read_bytes() == data
    assert words in aside.with_name(f"{aside.name}.reason.txt").read_text()
    assert inbox_files.held_rows() == []


def test_a_second_rejected_file_of_a_name_does_not_take_the_first_ones_place(inbox_folder: Path) -> None:
    for data in (b"one", b"two"):
        put(inbox_folder / "notes.docx", data)
        inbox_work.work()
    assert {path.read_bytes() for path in (inbox_folder / "rejected").glob("*.docx")} == {b"one", b"two"}


def test_a_file_that_fails_its_check_is_put_aside_with_the_datasets_reason(inbox_folder: Path) -> None:
    data = put(inbox_folder / "chats.jsonl").read_bytes()
    (inbox_folder / "chats.jsonl.json").write_text("{}")
    inbox_work.work()
    pass_validation(only().dataset, DatasetStatus.REJECTED, "Row 1 has no messages.")
    inbox_work.work()
    assert (only().state, only().reason) == ("rejected", "Row 1 has no messages.")
    assert (inbox_folder / "rejected" / "chats.jsonl").read_bytes() == data
    assert (inbox_folder / "rejected" / "chats.jsonl.json").exists()
    assert (inbox_folder / "rejected" / "chats.jsonl.reason.txt").read_text() == "Row 1 has no messages.\n"


def test_settings_that_cannot_be_used_are_said_by_their_path(inbox_folder: Path) -> None:
    put(inbox_folder / "chats.jsonl")
    (inbox_folder / "chats.jsonl.json").write_text('{"hyperparams": {"learning_rate": 7}}')
    inbox_work.work()
    assert only().state == "rejected"
    assert "hyperparams.learning_rate" in only().reason
    assert not Dataset.objects.exists()
