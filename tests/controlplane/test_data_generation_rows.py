"""Generated rows: read from shards as they come, looked at, accepted, edited, rejected, and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from controlplane.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from controlplane.models import DataGeneration, GeneratedExample, Job, LiveMessage
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Status
from controlplane.services import data_generation, data_generation_rows
from controlplane.services.data_generation_dataset import TIMES_TRIED, make, work
from controlplane.services.data_generation_rows import facts
from tests.controlplane.data_generations import line, make_generation, some_rows, turns, write_shard

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
MARA = Actor("mara", Role.USE)
REGIME3 = {"name": "regime3"}
RIGHT = "<<ANS_START>> (add 2 3) = 5 <<ANS_END>>"
WRONG = "<<ANS_START>> (add 2 3) = 6 <<ANS_END>>"


def fresh(row: DataGeneration) -> DataGeneration:
    return data_generation.get(row.pk)


def read(row: DataGeneration) -> DataGeneration:
    """The generation once the duty has read its shards."""
    work()
    return fresh(row)


def counts(row: DataGeneration) -> tuple[int, ...]:
    found = data_generation.counts(fresh(row))[row.pk]
    return tuple(found[name] for name in ("pending", "accepted", "rejected", "edited"))


# --- From the shards --------------------------------------------------------------------------------------------------


def test_rows_come_as_shards_become_whole_and_once_each() -> None:
    row = make_generation(some_rows(500), status=Status.RUNNING)
    work()
    work()
    assert counts(row) == (500, 0, 0, 0)
    assert not fresh(row).is_read
    write_shard(row, 2, some_rows(3, first=501))
    row.job.status = Status.FAILED
    row.job.save()
    read(row)
    assert counts(row) == (503, 0, 0, 0)
    assert fresh(row).is_read
    last = row.examples.order_by("-number")[0]
    assert (last.number, last.messages, last.seed_row) == (503, turns(503), 2)
    told = LiveMessage.objects.filter(topic_id="jobs", kind="generated").values_list("data", flat=True)
    assert [item.get("shards") for item in told] == [1, 2, None]


def test_what_a_retry_adds_is_read_and_decisions_stay() -> None:
    row = read(make_generation(some_rows(2), status=Status.CANCELLED))
    data_generation_rows.decide(MARA, row, 1, state="rejected")
    write_shard(row, 2, some_rows(1, first=501))
    DataGeneration.objects.update(is_read=False)
    work()
    assert counts(row) == (2, 0, 1, 0)
    assert [one.number for one in row.examples.order_by("number")] == [1, 2, 501]


def test_a_pending_job_is_let_alone() -> None:
    row = make_generation(some_rows(), status=Status.PENDING)
    work()
    assert counts(row) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        b"{torn",
        b'{"messages": []}',
        b'{"text": "raw"}',
        line([{"role": "user", "content": "alone"}]),
        line(turns(1, "a NUL \0 within")),
    ],
)
def test_a_shard_that_isnt_as_it_was_written_is_told_and_others_go_on(bad: bytes) -> None:
    broken, other = make_generation([*some_rows(1), bad]), make_generation(some_rows(2))
    work()
    assert "Line 2 of shard-00001.jsonl" in fresh(broken).fault
    assert counts(broken) == (0, 0, 0, 0)
    assert counts(other) == (2, 0, 0, 0)
    changed = make_generation(some_rows(2))
    write_shard(changed, 1, some_rows(1))
    assert "isn't as its job wrote it" in read(changed).fault


def test_one_that_breaks_the_duty_lets_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, other = make_generation(some_rows(1)), make_generation(some_rows(2))
    take_in = data_generation_rows.take_in

    def break_at_the_first(row: DataGeneration) -> None:
        if row.pk == broken.pk:
            raise RuntimeError("nobody thought of this")
        take_in(row)

    monkeypatch.setattr(data_generation_rows, "take_in", break_at_the_first)
    work()
    assert counts(other) == (2, 0, 0, 0)
    monkeypatch.undo()
    work()
    assert counts(broken) == (1, 0, 0, 0)


def test_what_breaks_the_duty_again_and_again_is_given_up_once_its_job_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = make_generation(some_rows(1), status=Status.RUNNING)

    def break_down(_row: DataGeneration) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(data_generation_rows, "take_in", break_down)
    for _ in range(TIMES_TRIED):
        work()
    assert not fresh(row).is_read, "its job goes on"
    Job.objects.filter(pk=row.job_id).update(status=Status.FAILED)
    work()
    assert fresh(row).is_read
    assert "RuntimeError came up again and again" in fresh(row).fault


# --- Looked at --------------------------------------------------------------------------------------------------------


def test_rows_are_paged_by_their_numbers_and_states() -> None:
    row = read(make_generation(some_rows(5)))
    for number, state in ((1, "accepted"), (3, "rejected")):
        data_generation_rows.decide(MARA, row, number, state=state)
    found = data_generation_rows.page(row, state="pending", after=2, limit=2)
    assert ([one["number"] for one in found["rows"]], found["total"]) == ([4, 5], 3)
    whole = data_generation_rows.page(row)
    assert [one["state"] for one in whole["rows"]] == ["accepted", "pending", "rejected", "pending", "pending"]
    assert whole["counts"] == {"pending": 3, "accepted": 1, "rejected": 1, "edited": 0}
    for wrong in ({"state": "odd"}, {"after": -1}, {"limit": 0}, {"limit": 201}):
        with pytest.raises(InvalidInputError):
            data_generation_rows.page(row, **wrong)


@pytest.mark.sqlite
def test_counting_reads_no_texts() -> None:
    """Each decision counts; of 100,000 rows that must not read 100,000 conversations."""
    row = read(make_generation(some_rows(2)))
    asked = str(GeneratedExample.objects.filter(generation=row).values("state", "edited_by").query)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {asked}")
        plan = " ".join(str(step) for step in cursor.fetchall())
    assert "COVERING INDEX" in plan


# --- Decided ----------------------------------------------------------------------------------------------------------


def test_a_row_is_decided_about_and_that_is_taken_back() -> None:
    row = read(make_generation(some_rows()))
    decided = data_generation_rows.decide(MARA, row, 2, state="accepted")
    assert (decided.state, decided.decided_by) == ("accepted", "mara")
    assert decided.decided_at is not None
    back = data_generation_rows.decide(MARA, row, 2, state="pending")
    assert (back.state, back.decided_by, back.decided_at) == ("pending", "", None)
    with pytest.raises(NotFoundError, match="no row 9"):
        data_generation_rows.decide(MARA, row, 9, state="accepted")
    with pytest.raises(InvalidInputError, match="choose pending, accepted, rejected"):
        data_generation_rows.decide(MARA, row, 1, state="odd")
    with pytest.raises(ForbiddenError):
        data_generation_rows.decide(Actor("eve", Role.READ), row, 1, state="accepted")


def test_an_edit_keeps_what_was_generated_and_can_be_undone() -> None:
    row = read(make_generation(some_rows(), options={"check": False}))
    edited = data_generation_rows.decide(MARA, row, 1, state="accepted", messages=turns(1, "Better."))
    assert (edited.messages, edited.original, edited.edited_by) == (turns(1, "Better."), turns(1), "mara")
    again = data_generation_rows.decide(MARA, row, 1, messages=turns(1, "Best."))
    assert (again.original, again.state) == (turns(1), "accepted")
    assert counts(row) == (2, 1, 0, 1)
    back = data_generation_rows.decide(MARA, row, 1, state="pending", messages=turns(1))
    assert (back.messages, back.original, back.edited_by) == (turns(1), None, "")
    assert counts(row) == (3, 0, 0, 0)


def test_an_edited_row_passes_the_profiles_check_before_it_is_saved() -> None:
    row = read(make_generation([line(turns(1, RIGHT))], strategy="regime3", profile=REGIME3))
    told = data_generation_rows.faults(row, turns(1, WRONG))
    assert (told[0]["code"], told[0]["message"]) == ("wrong_result", "The result is 5, not 6.")
    with pytest.raises(InvalidInputError, match="Row 1 can't be saved: The result is 5, not 6") as refused:
        data_generation_rows.decide(MARA, row, 1, state="accepted", messages=turns(1, WRONG))
    assert refused.value.faults[0].path == "messages"
    assert row.examples.get().messages == turns(1, RIGHT)
    unchecked = read(make_generation([line(turns(1, RIGHT))], strategy="regime3", profile=REGIME3,
                                     options={"check": False}))  # fmt: skip
    assert data_generation_rows.decide(MARA, unchecked, 1, messages=turns(1, WRONG)).messages == turns(1, WRONG)


@pytest.mark.parametrize(
    "messages",
    [turns(1, " "), [], turns(1)[:1], turns(1)[::-1], turns(1, "half \ud800 of a character"), turns(1, "a NUL \0")],
)
def test_what_no_dataset_takes_is_never_saved(messages: Any) -> None:
    row = read(make_generation(some_rows(1), options={"check": False}))
    found = data_generation_rows.faults(row, messages)
    assert found
    assert not data_generation_rows.may_be_kept(row, found)
    with pytest.raises(InvalidInputError, match="Row 1 can't be saved"):
        data_generation_rows.decide(MARA, row, 1, messages=messages)


def while_checking(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Has something else happen while the profile looks at an edit."""

    def check(*_args: object) -> list[dict[str, str]]:
        happens()
        return []

    monkeypatch.setattr(data_generation_rows, "faults", check)


def test_what_two_decide_at_once_about_a_row_both_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    row = read(make_generation(some_rows(1)))
    jonas = Actor("jonas", Role.USE)
    while_checking(monkeypatch, lambda: data_generation_rows.decide(jonas, row, 1, state="rejected"))
    edited = data_generation_rows.decide(MARA, row, 1, messages=turns(1, "Better."))
    assert (edited.state, edited.decided_by, edited.messages) == ("rejected", "jonas", turns(1, "Better."))
    assert facts(row.examples.get()) == facts(edited)


def test_a_row_that_has_gone_on_meanwhile_doesnt_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    row = read(make_generation(some_rows(2)))
    data_generation_rows.decide(MARA, row, 2, state="accepted")
    while_checking(monkeypatch, lambda: make(MARA, fresh(row)))
    with pytest.raises(ConflictError, match="has become a dataset"):
        data_generation_rows.decide(MARA, row, 1, messages=turns(1, "Better."))
    assert not GeneratedExample.objects.exists()
    for change in (
        lambda: data_generation_rows.decide(MARA, row, 1, state="accepted"),
        lambda: data_generation_rows.accept_pending(MARA, row),
    ):
        with pytest.raises(ConflictError, match="has become a dataset"):
            change()  # the row that they hold is an old one


def test_a_generation_that_was_deleted_meanwhile_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = read(make_generation(some_rows(1), created_by="mara"))
    while_checking(monkeypatch, lambda: data_generation.delete(MARA, fresh(row)))
    with pytest.raises(NotFoundError, match="There is no generation"):
        data_generation_rows.decide(MARA, row, 1, messages=turns(1, "Better."))
    assert not GeneratedExample.objects.exists()


def test_what_is_pending_is_accepted_at_once() -> None:
    row = read(make_generation(some_rows(5)))
    data_generation_rows.decide(MARA, row, 2, state="rejected")
    assert data_generation_rows.accept_pending(MARA, row) == 4
    assert counts(row) == (0, 4, 1, 0)
    assert data_generation_rows.accept_pending(MARA, row) == 0
    with pytest.raises(ForbiddenError):
        data_generation_rows.accept_pending(Actor("eve", Role.READ), row)


def test_an_edit_that_the_profile_breaks_at_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    row = read(make_generation(some_rows(1)))

    def break_down(*_args: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(data_generation_rows, "faults_of", break_down)
    with pytest.raises(ConflictError, match="The profile plain can't check this row: by zero"):
        data_generation_rows.faults(row, turns(1))


def test_texts_of_any_script_come_through() -> None:
    row = read(make_generation([line(turns(1, "Ахой ⚓ 船"))]))
    (shown,) = data_generation_rows.page(row)["rows"]
    assert json.loads(json.dumps(shown))["messages"][1]["content"] == "Ахой ⚓ 船"
