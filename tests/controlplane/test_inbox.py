"""The inbox: which files are whole, and what is taken of it."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from controlplane.models import AuditLine, InboxFile, Job
from controlplane.models.access import SYSTEM
from controlplane.services import datasets, inbox_files, inbox_work, settings
from controlplane.services.inbox_watch import InboxWatch
from tests.controlplane.inbox_rounds import AN_HOUR, only, put
from tests.factories import chat_rows, jsonl
from tests.product import wait_for

pytestmark = pytest.mark.django_db


def test_a_file_is_taken_when_nobody_writes_to_it_and_becomes_a_dataset(inbox_folder: Path) -> None:
    data = jsonl(chat_rows())
    with (inbox_folder / "chats.jsonl").open("wb") as stream:
        stream.write(data)
        stream.flush()
        inbox_work.work()
        assert (only().state, only().reason) == ("settling", "A program has it open for writing.")
    os.utime(inbox_folder / "chats.jsonl", (time.time() - AN_HOUR,) * 2)
    inbox_work.work()
    row = only()
    assert row.dataset is not None
    assert (row.state, row.dataset.name, row.dataset.created_by) == ("validating", "chats", "inbox")
    assert datasets.source_path(row.dataset).read_bytes() == data
    assert list(inbox_folder.glob("chats*")) == []
    assert Job.objects.get().config["level"] == "quick"
    assert AuditLine.objects.filter(action="inbox.take", actor="inbox").count() == 1


def test_a_file_that_was_just_written_settles_first(inbox_folder: Path) -> None:
    path = put(inbox_folder / "chats.jsonl", age_seconds=0)
    inbox_work.work()
    inbox_work.work()
    assert only().state == "settling"
    InboxFile.objects.update(unchanged_since=time.time() - AN_HOUR)
    with path.open("ab") as stream:
        stream.write(jsonl(chat_rows(1)))
    inbox_work.work()
    assert only().state == "settling", "it has grown: it settles anew"
    InboxFile.objects.update(unchanged_since=time.time() - AN_HOUR)
    inbox_work.work()
    assert only().state == "validating"


def test_a_file_renamed_into_its_place_is_taken_at_once(inbox_folder: Path) -> None:
    watch = InboxWatch()
    watch.watch(inbox_folder)
    try:
        part = put(inbox_folder / ".chats.jsonl.part", age_seconds=0)
        part.rename(inbox_folder / "chats.jsonl")
        outside = put(inbox_folder.parent / "tmp" / "others.jsonl", age_seconds=0)
        outside.rename(inbox_folder / "high" / "others.jsonl")
        renamed: set[Path] = set()

        def both() -> bool:
            renamed.update(watch.news()[1])
            return len(renamed) == 2

        wait_for("both renames", both, 10)
    finally:
        watch.stop()
    inbox_work.scan(renamed)
    assert dict(InboxFile.objects.values_list("filename", "state")) == {
        "chats.jsonl": "validating", "others.jsonl": "validating",
    }  # fmt: skip


@pytest.mark.parametrize("name", [".hidden.jsonl", "chats.jsonl.part", "chats.jsonl~", "chats.jsonl.json"])
def test_what_is_unfinished_or_the_settings_of_another_file_is_left_alone(inbox_folder: Path, name: str) -> None:
    put(inbox_folder / name)
    inbox_work.work()
    assert not InboxFile.objects.exists()
    assert (inbox_folder / name).exists()


def test_the_most_urgent_folder_comes_first_and_gives_its_priority(inbox_folder: Path) -> None:
    for name in ("low", "high", "normal"):
        put(inbox_folder / name / f"{name}.jsonl")
    inbox_work.work()
    order = [row.filename for row in InboxFile.objects.order_by("id")]
    assert order == ["high.jsonl", "normal.jsonl", "low.jsonl"]
    assert [row.priority for row in InboxFile.objects.order_by("id")] == [2, 1, 0]


def test_a_file_that_is_taken_out_again_is_forgotten(inbox_folder: Path) -> None:
    path = put(inbox_folder / "chats.jsonl", age_seconds=0)
    inbox_work.work()
    path.unlink()
    inbox_work.work()
    assert not InboxFile.objects.exists()


def test_with_the_inbox_off_nothing_is_taken(inbox_folder: Path) -> None:
    settings.put(SYSTEM, "inbox.enabled", False)
    put(inbox_folder / "chats.jsonl")
    inbox_work.work()
    assert not InboxFile.objects.exists()


def test_a_file_whose_row_is_gone_is_put_aside(inbox_folder: Path) -> None:
    held = inbox_files.held_folder(4711)
    held.mkdir()
    put(held / "data", b"precious")
    inbox_work.work()
    assert [path.read_bytes() for path in (inbox_folder / "rejected").glob("file-4711")] == [b"precious"]
    assert inbox_files.held_rows() == []


def test_bytes_that_a_kill_left_in_their_place_without_a_row_become_the_dataset(inbox_folder: Path, home: Path) -> None:
    data = put(inbox_folder / "chats.jsonl").read_bytes()
    place = home / "datasets" / hashlib.sha256(data).hexdigest()
    place.mkdir(parents=True)
    (place / "source.jsonl").write_bytes(data)
    inbox_work.work()
    assert (only().state, only().reason, only().dataset is not None) == ("validating", "", True)
