"""The inbox: which runs come of its files, and that the same bytes start none twice."""

import json
from pathlib import Path

import pytest

from controlplane.models import Dataset, InboxFile, Run
from controlplane.models.jobs import Status
from controlplane.services import inbox_files, inbox_work, jobs
from tests.controlplane.inbox_rounds import only, pass_validation, put, template
from tests.factories import chat_rows, jsonl, make_dataset, make_model

pytestmark = pytest.mark.django_db


def test_a_file_that_passes_starts_a_run_of_its_priority_with_its_own_settings(inbox_folder: Path) -> None:
    template()
    put(inbox_folder / "high" / "chats.jsonl")
    said = {"max_steps": 3, "continue_from_current": True, "name": "night shift", "hyperparams": {"seed": 7}}
    (inbox_folder / "high" / "chats.jsonl.json").write_text(json.dumps(said))
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


def test_a_configuration_of_the_replaced_system_is_taken_as_it_is(inbox_folder: Path) -> None:
    make_model("smollm2")
    put(inbox_folder / "chats.jsonl")
    old = {"base_model": "smollm2", "dataset": "12", "epochs": 2, "output_dir": "/srv/out", "wandb_project": "ships"}
    (inbox_folder / "chats.jsonl.json").write_text(json.dumps(old))
    inbox_work.work()
    assert all(name in only().reason for name in ("wandb_project", "data.train_dataset", "output.output_dir"))
    pass_validation(only().dataset)
    inbox_work.work()
    run = Run.objects.get()
    assert (run.start_model.name, run.config["hyperparams"]["num_train_epochs"]) == ("smollm2", 2.0)


def test_without_a_template_a_file_becomes_a_dataset_alone(inbox_folder: Path) -> None:
    put(inbox_folder / "chats.jsonl")
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    assert (only().state, "inbox.template" in only().reason) == ("done", True)
    assert not Run.objects.exists()


def test_a_dataset_that_was_uploaded_before_is_trained_on(inbox_folder: Path) -> None:
    rows = chat_rows()
    make_dataset(rows=rows)
    template()
    put(inbox_folder / "chats.jsonl", jsonl(rows))
    inbox_work.work()
    inbox_work.work()
    assert (only().state, Run.objects.count(), Dataset.objects.count()) == ("queued", 1, 1)


def put_again_what_has_a_run(inbox_folder: Path) -> None:
    """A file has become a dataset with a run, and comes once more under another name."""
    template()
    data = put(inbox_folder / "chats.jsonl").read_bytes()
    inbox_work.work()
    pass_validation(only().dataset)
    inbox_work.work()
    put(inbox_folder / "again.jsonl", data)


def test_the_same_file_again_is_the_dataset_that_is_there_and_starts_no_second_run(inbox_folder: Path) -> None:
    put_again_what_has_a_run(inbox_folder)
    inbox_work.work()
    inbox_work.work()
    again = InboxFile.objects.get(filename="again.jsonl")
    assert (again.state, "already" in again.reason) == ("done", True)
    assert (Dataset.objects.count(), Run.objects.count()) == (1, 1)


def test_trouble_on_the_way_does_not_start_a_second_run_of_the_same_bytes(
    inbox_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_again_what_has_a_run(inbox_folder)
    with monkeypatch.context() as patch:
        patch.setattr(inbox_work, "_begin", lambda *_given: 1 / 0)
        inbox_work.scan()
        inbox_work.work()
    again = InboxFile.objects.get(filename="again.jsonl")
    assert "tried again" in again.reason
    inbox_work.work()
    assert Run.objects.count() == 1
    assert InboxFile.objects.get(filename="again.jsonl").state == "done"
