"""The inbox: what is whole, what becomes of it, and that a kill neither loses a file nor takes it twice."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import ConflictError
from controlplane.models import AuditLine, Dataset, InboxFile, Job, Run
from controlplane.models.access import SYSTEM
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import Kind, Status
from controlplane.services import datasets, inbox, inbox_files, inbox_work, jobs, run_templates, settings
from controlplane.services.inbox_watch import InboxWatch
from tests.factories import chat_rows, jsonl, make_dataset, make_model
from tests.product import wait_for

pytestmark = pytest.mark.django_db
AN_HOUR = 3600.0


@pytest.fixture(autouse=True)
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inbox of a process that has just started. Nothing watches it: each round looks by itself."""
    monkeypatch.setattr(inbox_work, "_looked_at", {})
    monkeypatch.setattr(inbox_work._watch, "watch", lambda _folder: None)
    inbox_files.make_folders()
    return home / "inbox"


def put(path: Path, data: bytes | None = None, *, age_seconds: float = AN_HOUR) -> Path:
    """A file that was written a while ago."""
    path.write_bytes(jsonl(chat_rows()) if data is None else data)
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def template(**fields: Any) -> str:
    """A run template of a model that is there; files of the inbox start runs with it."""
    row = run_templates.save(SYSTEM, name="nightly", config={}, model=make_model().name, **fields)
    settings.put(SYSTEM, "inbox.template", row.name)
    return row.name


def pass_validation(dataset: Dataset | None, status: str = DatasetStatus.READY, reason: str = "") -> None:
    """As if both checks had been made."""
    assert dataset is not None
    Job.objects.filter(kind=Kind.VALIDATE).update(status=Status.DONE)
    Dataset.objects.filter(pk=dataset.pk).update(status=status, reason=reason, examples=3)


def only() -> InboxFile:
    """The one file that the inbox knows."""
    return InboxFile.objects.select_related("dataset", "run", "run__job").get()


# --- Whole ------------------------------------------------------------------------------------------------------------


def test_a_file_is_taken_when_nobody_writes_to_it_and_becomes_a_dataset(folder: Path) -> None:
    data = jsonl(chat_rows())
    with (folder / "chats.jsonl").open("wb") as stream:
        stream.write(data)
        stream.flush()
        inbox_work.work()
        assert (only().state, only().reason) == ("settling", "A program has it open for writing.")
    os.utime(folder / "chats.jsonl", (time.time() - AN_HOUR,) * 2)
    inbox_work.work()
    row = only()
    assert row.dataset is not None
    assert (row.state, row.dataset.name, row.dataset.created_by) == ("validating", "chats", "inbox")
    assert datasets.source_path(row.dataset).read_bytes() == data
    assert list(folder.glob("chats*")) == []
    assert Job.objects.get().config["level"] == "quick"
    assert AuditLine.objects.filter(action="inbox.take", actor="inbox").count() == 1


def test_a_file_that_was_just_written_settles_first(folder: Path) -> None:
    path = put(folder / "chats.jsonl", age_seconds=0)
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


def test_a_file_renamed_into_its_place_is_taken_at_once(folder: Path) -> None:
    watch = InboxWatch()
    watch.watch(folder)
    try:
        part = put(folder / ".chats.jsonl.part", age_seconds=0)
        part.rename(folder / "chats.jsonl")
        outside = put(folder.parent / "tmp" / "others.jsonl", age_seconds=0)
        outside.rename(folder / "high" / "others.jsonl")
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
def test_what_is_unfinished_or_the_settings_of_another_file_is_left_alone(folder: Path, name: str) -> None:
    put(folder / name)
    inbox_work.work()
    assert not InboxFile.objects.exists()
    assert (folder / name).exists()


def test_the_most_urgent_folder_comes_first_and_gives_its_priority(folder: Path) -> None:
    for name in ("low", "high", "normal"):
        put(folder / name / f"{name}.jsonl")
    inbox_work.work()
    order = [row.filename for row in InboxFile.objects.order_by("id")]
    assert order == ["high.jsonl", "normal.jsonl", "low.jsonl"]
    assert [row.priority for row in InboxFile.objects.order_by("id")] == [2, 1, 0]


def test_a_file_that_is_taken_out_again_is_forgotten(folder: Path) -> None:
    path = put(folder / "chats.jsonl", age_seconds=0)
    inbox_work.work()
    path.unlink()
    inbox_work.work()
    assert not InboxFile.objects.exists()


# --- Refused ----------------------------------------------------------------------------------------------------------


def test_a_link_is_refused_and_what_it_points_to_stays(folder: Path) -> None:
    secret = put(folder.parent / "secret.jsonl")
    (folder / "link.jsonl").symlink_to(secret)
    inbox_work.work()
    row = only()
    assert (row.state, "symbolic link" in row.reason) == ("rejected", True)
    assert secret.exists()
    assert (folder / "rejected" / "link.jsonl").is_symlink()
    assert "symbolic link" in (folder / "rejected" / "link.jsonl.reason.txt").read_text()
    assert not Dataset.objects.exists()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("notes.docx", b"x", "no suffix"), ("empty.jsonl", b"", "is empty"), ("odd\n.jsonl", b"{}", "can't be shown")],
)
def test_what_can_be_no_dataset_is_put_aside_with_the_reason(folder: Path, name: str, data: bytes, words: str) -> None:
    put(folder / name, data)
    inbox_work.work()
    row = only()
    assert (row.state, words in row.reason) == ("rejected", True)
    aside = folder / "rejected" / row.rejected_as
    assert aside.read_bytes() == data
    assert words in aside.with_name(f"{aside.name}.reason.txt").read_text()
    assert inbox_files.held_rows() == []


def test_a_second_rejected_file_of_a_name_does_not_take_the_first_ones_place(folder: Path) -> None:
    for data in (b"one", b"two"):
        put(folder / "notes.docx", data)
        inbox_work.work()
    assert {path.read_bytes() for path in (folder / "rejected").glob("*.docx")} == {b"one", b"two"}


def test_a_file_that_fails_its_check_is_put_aside_with_the_datasets_reason(folder: Path) -> None:
    data = put(folder / "chats.jsonl").read_bytes()
    (folder / "chats.jsonl.json").write_text("{}")
    inbox_work.work()
    pass_validation(only().dataset, DatasetStatus.REJECTED, "Row 1 has no messages.")
    inbox_work.work()
    assert (only().state, only().reason) == ("rejected", "Row 1 has no messages.")
    assert (folder / "rejected" / "chats.jsonl").read_bytes() == data
    assert (folder / "rejected" / "chats.jsonl.json").exists()
    assert (folder / "rejected" / "chats.jsonl.reason.txt").read_text() == "Row 1 has no messages.\n"


def test_settings_that_cannot_be_used_are_said_by_their_path(folder: Path) -> None:
    put(folder / "chats.jsonl")
    (folder / "chats.jsonl.json").write_text('{"hyperparams": {"learning_rate": 7}}')
    inbox_work.work()
    assert only().state == "rejected"
    assert "hyperparams.learning_rate" in only().reason
    assert not Dataset.objects.exists()


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_a_file_that_passes_starts_a_run_of_its_priority_with_its_own_settings(folder: Path) -> None:
    template()
    put(folder / "high" / "chats.jsonl")
    said = {"max_steps": 3, "continue_from_current": True, "name": "night shift", "hyperparams": {"seed": 7}}
    (folder / "high" / "chats.jsonl.json").write_text(json.dumps(said))
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    run = Run.objects.select_related("job", "chain").get()
    assert (only().state, only().run_id, run.job.priority, run.name) == ("queued", run.pk, 2, "night shift")
    assert (run.config["hyperparams"]["max_steps"], run.config["hyperparams"]["seed"]) == (3, 7)
    assert run.chain is not None
    assert run.chain.name == "current_model"
    jobs.transition(run.job_id, Status.RUNNING, reason="test")
    inbox_work.work()
    assert only().state == "running"
    jobs.transition(run.job_id, Status.DONE, reason="test")
    inbox_work.work()
    assert only().state == "done"
    assert inbox_files.held_rows() == []


def test_a_file_swapped_for_a_link_becomes_no_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = put(folder.parent / "secret.jsonl")
    path, take = put(folder / "chats.jsonl"), inbox_files.take

    def swapped(found: inbox_files.Found, row_id: int) -> None:
        path.unlink()
        path.symlink_to(secret)
        take(found, row_id)

    monkeypatch.setattr(inbox_files, "take", swapped)
    inbox_work.work()
    assert (only().state, "a link" in only().reason) == ("rejected", True)
    assert not Dataset.objects.exists()


def test_trouble_on_the_way_does_not_start_a_second_run_of_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template()
    data = put(folder / "chats.jsonl").read_bytes()
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    put(folder / "again.jsonl", data)
    with monkeypatch.context() as patch:
        patch.setattr(inbox_work, "_begin", lambda *_given: 1 / 0)
        inbox_work.scan()
        inbox_work.work()
    again = InboxFile.objects.get(filename="again.jsonl")
    assert "tried again" in again.reason
    inbox_work.work()
    assert Run.objects.count() == 1
    assert InboxFile.objects.get(filename="again.jsonl").state == "done"


def test_a_configuration_of_the_replaced_system_is_taken_as_it_is(folder: Path) -> None:
    make_model("smollm2")
    put(folder / "chats.jsonl")
    old = {"base_model": "smollm2", "dataset": "12", "epochs": 2, "output_dir": "/srv/out", "wandb_project": "ships"}
    (folder / "chats.jsonl.json").write_text(json.dumps(old))
    inbox_work.work()
    assert all(name in only().reason for name in ("wandb_project", "data.train_dataset", "output.output_dir"))
    pass_validation(only().dataset)
    inbox_work.work()
    run = Run.objects.get()
    assert (run.model.name, run.config["hyperparams"]["num_train_epochs"]) == ("smollm2", 2.0)


def test_without_a_template_a_file_becomes_a_dataset_alone(folder: Path) -> None:
    put(folder / "chats.jsonl")
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    assert (only().state, "inbox.template" in only().reason) == ("done", True)
    assert not Run.objects.exists()


def test_a_run_that_cannot_be_made_is_said_and_tried_again_by_hand(folder: Path) -> None:
    put(folder / "chats.jsonl")
    settings.put(SYSTEM, "inbox.template", "nightly")
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    assert (only().state, "no run template 'nightly'" in only().reason) == ("rejected", True)
    template()
    inbox.retry(SYSTEM, only().pk)
    inbox_work.work()
    assert (only().state, Run.objects.count()) == ("queued", 1)
    assert list((folder / "rejected").iterdir()) == [], "its bytes are the dataset's"


def test_a_rejected_dataset_is_checked_whole_when_its_file_is_tried_again(folder: Path) -> None:
    put(folder / "chats.jsonl")
    inbox_work.work()
    pass_validation(only().dataset, DatasetStatus.REJECTED, "Row 1 has no messages.")
    inbox_work.work()
    inbox.retry(SYSTEM, only().pk)
    assert Job.objects.get(status=Status.PENDING).config["level"] == "standard"
    pass_validation(only().dataset, DatasetStatus.REJECTED, "Row 2 has no messages.")
    inbox_work.work()
    assert (only().state, only().reason) == ("rejected", "Row 2 has no messages.")
    assert (folder / "rejected" / "chats.jsonl.reason.txt").read_text() == "Row 2 has no messages.\n"
    assert len(list((folder / "rejected").iterdir())) == 2


def test_the_same_file_again_is_the_dataset_that_is_there_and_starts_no_second_run(folder: Path) -> None:
    template()
    data = put(folder / "chats.jsonl").read_bytes()
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    put(folder / "again.jsonl", data)
    inbox_work.work()
    inbox_work.work()
    again = InboxFile.objects.get(filename="again.jsonl")
    assert (again.state, "already" in again.reason) == ("done", True)
    assert (Dataset.objects.count(), Run.objects.count()) == (1, 1)


def test_a_failed_run_fails_its_file_and_is_retried_with_it(folder: Path) -> None:
    template()
    put(folder / "chats.jsonl")
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


# --- Kills ------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of the process at this point."""


@pytest.mark.parametrize("where", ["take", "is_written_to_after", "sha256_of", "adopt", "after_adopt"])
def test_a_kill_between_claim_and_dataset_loses_nothing_and_takes_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    data = put(folder / "chats.jsonl").read_bytes()
    adopt = datasets.adopt

    def die(*_given: Any, **_more: Any) -> Any:
        raise Killed

    def adopt_and_die(*given: Any, **more: Any) -> Any:
        adopt(*given, **more)
        raise Killed

    with monkeypatch.context() as patch:
        match where:
            case "take":
                patch.setattr(inbox_files, "take", die)
            case "is_written_to_after":
                patch.setattr(inbox_work, "_adopted", die)
            case "sha256_of":
                patch.setattr(inbox_work, "sha256_of", die)
            case "adopt":
                patch.setattr(datasets, "adopt", die)
            case _:
                patch.setattr(datasets, "adopt", adopt_and_die)
        with pytest.raises(Killed):
            inbox_work.work()
    assert only().state == "taking"
    monkeypatch.setattr(inbox_work, "_looked_at", {})  # a new process
    inbox_work.work()
    row = only()
    assert row.dataset is not None
    assert (row.state, row.reason, Dataset.objects.count()) == ("validating", "", 1)
    assert datasets.source_path(row.dataset).read_bytes() == data
    assert Job.objects.count() == 1


def test_a_kill_between_copy_and_removal_takes_the_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(folder / "chats.jsonl")
    os.link(path, folder.parent / "elsewhere.jsonl")  # a second name: its bytes are copied, not renamed
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_given, **_more: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            inbox_work.work()
    assert path.exists()
    inbox_work.work()
    assert not path.exists()
    assert (InboxFile.objects.count(), only().state) == (1, "validating")
    assert (folder.parent / "elsewhere.jsonl").stat().st_nlink == 1


def test_a_file_whose_row_is_gone_is_put_aside(folder: Path) -> None:
    held = inbox_files.held_folder(4711)
    held.mkdir()
    put(held / "data", b"precious")
    inbox_work.work()
    assert [path.read_bytes() for path in (folder / "rejected").glob("file-4711")] == [b"precious"]
    assert inbox_files.held_rows() == []


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_a_rejected_file_is_put_back_and_taken_again(folder: Path) -> None:
    put(folder / "high" / "chats.jsonl")
    (folder / "high" / "chats.jsonl.json").write_text("no json")
    inbox_work.work()
    assert only().state == "rejected"
    (folder / "rejected" / "chats.jsonl.json").write_text("{}")
    inbox.retry(SYSTEM, only().pk)
    assert not list((folder / "rejected").iterdir())
    inbox_work.work()
    assert (only().state, only().priority) == ("validating", 2)


def test_a_file_that_is_over_is_dismissed_and_one_under_way_is_not(folder: Path) -> None:
    put(folder / "notes.docx", b"x")
    inbox_work.work()
    inbox.dismiss(SYSTEM, only().pk)
    assert not InboxFile.objects.exists()
    assert (folder / "rejected" / "notes.docx").exists(), "it stays where it was put"
    put(folder / "chats.jsonl")
    inbox_work.work()
    with pytest.raises(ConflictError, match="validating"):
        inbox.dismiss(SYSTEM, only().pk)


def test_with_the_inbox_off_nothing_is_taken(folder: Path) -> None:
    settings.put(SYSTEM, "inbox.enabled", False)
    put(folder / "chats.jsonl")
    inbox_work.work()
    assert not InboxFile.objects.exists()


def test_a_dataset_that_was_uploaded_before_is_trained_on(folder: Path) -> None:
    rows = chat_rows()
    make_dataset(rows=rows)
    template()
    put(folder / "chats.jsonl", jsonl(rows))
    inbox_work.work()
    inbox_work.work()
    assert (only().state, Run.objects.count(), Dataset.objects.count()) == ("queued", 1, 1)
