"""What becomes of generated rows: one dataset with its lineage, by hand or at once, and what stands in its way."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError
from controlplane.models import AuditLine, DataGeneration, Dataset, GeneratedExample
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Status
from controlplane.services import cleaning_looks, data_generation, data_generation_rows, dataset_intake, jobs
from controlplane.services.data_generation_dataset import make, work
from tests.controlplane.data_generations import make_generation, some_rows, turns

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
MARA = Actor("mara", Role.USE)


def fresh(row: DataGeneration) -> DataGeneration:
    return data_generation.get(row.pk)


def reviewed(*shards: list[bytes], accepted: tuple[int, ...] = (), **fields: Any) -> DataGeneration:
    """A generation whose rows are read, of which those of these numbers are accepted."""
    row = make_generation(*(shards or (some_rows(4),)), **fields)
    work()
    for number in accepted:
        data_generation_rows.decide(MARA, row, number, state="accepted")
    return fresh(row)


def written(dataset: Dataset) -> list[Any]:
    (source,) = dataset.folder.glob("source.*")
    return [json.loads(text)["messages"] for text in source.read_text().splitlines()]


def test_accepted_rows_alone_become_a_dataset_and_then_there_are_none() -> None:
    row = reviewed(accepted=(3, 1))
    data_generation_rows.decide(MARA, row, 2, state="rejected")
    data_generation_rows.decide(MARA, row, 3, messages=turns(3, "Edited."))
    dataset, is_new = make(MARA, row, name="sea", eval_fraction=0.1)
    assert is_new
    assert written(dataset) == [turns(1), turns(3, "Edited.")]
    assert (dataset.name, dataset.version, dataset.eval_fraction, dataset.status) == ("sea", 1, 0.1, "validating")
    assert dataset.job is not None
    assert (dataset.job.kind, dataset.created_by) == ("validate", "mara")
    assert (dataset.generator, dataset.generator_version) == ("pilothouse answer", row.model_name)
    assert [parent["id"] for parent in dataset.parents] == [row.seeds_id]
    assert not GeneratedExample.objects.exists()
    told = data_generation.facts(fresh(row))
    assert told["examples"] == {"pending": 1, "accepted": 2, "rejected": 1, "edited": 1}
    assert told["dataset_id"] == dataset.pk
    audit = AuditLine.objects.get(action="data_generation.dataset")
    assert (audit.target, audit.detail["rows"], audit.detail["reviewers"]) == (str(dataset), 2, ["mara"])


def test_a_second_press_finds_the_dataset_of_the_first() -> None:
    row = reviewed(accepted=(1, 2))
    first, _ = make(MARA, row)
    assert make(MARA, row, name="other") == (first, False), "the row that the second press holds is an old one"
    assert Dataset.objects.filter(name__in=["more", "other"]).count() == 1


def test_while_one_makes_it_nobody_else_does_and_nobody_decides() -> None:
    row = reviewed(accepted=(1,))
    DataGeneration.objects.filter(pk=row.pk).update(making_since=timezone.now())
    with pytest.raises(ConflictError, match="at this moment"):
        make(MARA, row)
    for change in (
        lambda: data_generation_rows.decide(MARA, fresh(row), 2, state="accepted"),
        lambda: data_generation_rows.accept_pending(MARA, fresh(row)),
    ):
        with pytest.raises(ConflictError, match="is being made"):
            change()
    DataGeneration.objects.filter(pk=row.pk).update(making_since=timezone.now() - timedelta(hours=1))
    assert make(MARA, row)[1], "whoever had claimed it died at it"


def test_a_failure_lets_go_and_leaves_the_rows(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    row = reviewed(accepted=(1,))

    def full(*_args: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_intake, "adopt", full)
    with pytest.raises(OSError, match="No space"):
        make(MARA, row)
    assert fresh(row).making_since is None
    assert row.examples.count() == 4
    assert list((home / "tmp").iterdir()) == []


def test_what_stands_in_the_way_is_said() -> None:
    with pytest.raises(ConflictError, match="wait for its end"):
        make(MARA, make_generation(some_rows(), status=Status.RUNNING))
    with pytest.raises(ConflictError, match="still being read"):
        make(MARA, make_generation(some_rows()))
    with pytest.raises(ConflictError, match="is accepted, so there is no dataset"):
        make(MARA, reviewed())
    with pytest.raises(ConflictError, match="has made no row"):
        make(MARA, make_generation(status=Status.FAILED, review=False))
    row = reviewed(accepted=(1,))
    with pytest.raises(ForbiddenError):
        make(Actor("eve", Role.READ), row)
    for wrong in ({"name": "a\nb"}, {"eval_fraction": 0.6}):
        with pytest.raises(InvalidInputError):
            make(MARA, row, **wrong)
    make(MARA, row)
    with pytest.raises(ConflictError, match="edit a copy"):
        data_generation_rows.decide(MARA, fresh(row), 1, state="rejected")


def test_one_that_was_put_back_into_the_queue_meanwhile_isnt_made() -> None:
    row = reviewed(accepted=(1,), status=Status.FAILED)
    jobs.retry(Actor("ada", Role.ADMIN), row.job_id)
    with pytest.raises(ConflictError, match="is pending: wait for its end"):
        make(MARA, row)  # this row is an old one
    assert (fresh(row).making_since, fresh(row).made_at) == (None, None)


def test_one_that_was_deleted_isnt_made_again() -> None:
    row = reviewed(accepted=(1,))
    make(MARA, row)[0].delete()
    with pytest.raises(ConflictError, match="has been deleted"):
        make(MARA, row)


def test_without_a_review_it_is_made_at_once_by_whoever_asked() -> None:
    row = make_generation(
        some_rows(500), some_rows(2, first=501), review=False, strategy="regime3", created_by="jonas", name="sums"
    )
    work()
    dataset = fresh(row).dataset
    assert dataset is not None
    assert len(written(dataset)) == 502
    assert (dataset.name, dataset.created_by, dataset.parents) == ("sums", "jonas", [])
    assert (dataset.generator, dataset.generator_version) == ("pilothouse regime3", "1")
    assert not GeneratedExample.objects.exists()
    work()
    assert Dataset.objects.filter(name="sums").count() == 1


def test_without_a_review_what_a_cancelled_job_has_made_waits_for_a_press() -> None:
    row = make_generation(some_rows(2), review=False, status=Status.CANCELLED)
    work()
    assert fresh(row).dataset is None
    assert written(make(MARA, fresh(row))[0]) == [turns(1), turns(2)]


def test_why_it_could_not_be_made_by_itself_is_kept() -> None:
    row = make_generation(some_rows(2), review=False)
    (row.folder / "shard-00001.jsonl").write_bytes(b"other")
    work()
    assert "isn't as its job wrote it" in fresh(row).fault
    assert not Dataset.objects.filter(name="more").exists()


def test_the_same_rows_are_the_same_dataset() -> None:
    first, _ = make(MARA, reviewed(accepted=(1, 2)))
    same, is_new = make(MARA, reviewed(accepted=(1, 2)))
    assert (same, is_new) == (first, False)


def test_cleaning_leaves_the_shards_of_a_known_job_and_takes_those_of_a_deleted_one(home: Path) -> None:
    kept, gone = reviewed(), reviewed()
    gone.job.delete()
    found = cleaning_looks.find(home, timezone.now().timestamp() + 10 * cleaning_looks.DAY)
    jobs = [leftover.path for leftover in found if leftover.kind == "job"]
    assert jobs == [f"jobs/{gone.folder.parent.name}"]
    assert kept.folder.is_dir()
