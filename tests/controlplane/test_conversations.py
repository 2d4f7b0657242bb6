"""Conversations as trees, votes on their answers, collected rows: what the services keep and refuse."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.http import QueryDict
from django.utils import timezone

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, PilothouseError
from controlplane.models import AuditLine, CollectedExample, Conversation, Turn, Vote
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.services import collected, conversation_turns, conversations, settings, votes
from controlplane.services.tables import conversations as asked
from controlplane.services.tables import keyset

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]
ME, YOU = Actor("me", Role.USE), Actor("you", Role.ADMIN)


def answer(question: Turn, content: str, side: str = "", model: str = "m", **fields: Any) -> Turn:
    """An answer as a stream leaves it."""
    turn = conversation_turns.begin_answer(question, side, model, fields.pop("asked", {}), is_blind=False, **fields)
    conversation_turns.keep_answer(turn.pk, content, "stop", {})
    turn.refresh_from_db()
    return turn


def begin(question: str = "What is a keel?") -> tuple[Conversation, Turn]:
    """A conversation of mine with one question."""
    row = conversations.create(ME)
    return row, conversation_turns.ask(ME, row.pk, question)


def listed(who: Actor, address: str = "") -> list[Conversation]:
    """The conversations of an actor's table."""
    return keyset.page(asked.ask(who, QueryDict(address))).rows


def texts(turns: list[Turn]) -> list[str]:
    return [turn.content for turn in turns]


# --- Trees ------------------------------------------------------------------------------------------------------------


def test_a_question_has_the_history_of_its_own_branch() -> None:
    row, first = begin("Q1")
    one, other = answer(first, "A1"), answer(first, "A1 again")
    second = conversation_turns.ask(ME, row.pk, "Q2", one.pk)
    edited = conversation_turns.ask(ME, row.pk, "Q2 edited", other.pk)
    assert texts(conversation_turns.history(second)) == ["Q1", "A1", "Q2"]
    assert texts(conversation_turns.history(edited)) == ["Q1", "A1 again", "Q2 edited"]


def test_each_of_two_sides_goes_on_from_its_own_answers_even_when_they_change_places() -> None:
    row, first = begin("Q1")
    left, right = answer(first, "L1", "left", "a"), answer(first, "R1", "right", "b")
    second = conversation_turns.ask(ME, row.pk, "Q2", right.pk, left.pk)  # b stands left from here on
    answer(second, "b again", "left", "b")
    assert texts(conversation_turns.history(second, "left")) == ["Q1", "R1", "Q2"]
    assert texts(conversation_turns.history(second, "right")) == ["Q1", "L1", "Q2"]
    assert conversation_turns.model_before(second, "left") == "b"
    assert conversation_turns.model_before(second, "right") == "a"


def test_the_first_question_is_the_title_and_the_last_used_comes_first() -> None:
    old, _ = begin("What is\na keel for?" + " Say more." * 20)
    new, _ = begin("And a rudder?")
    conversation_turns.ask(ME, old.pk, "Once more")
    assert [row.pk for row in listed(ME)] == [old.pk, new.pk]
    title = listed(ME)[0].title
    assert title.startswith("What is a keel for? Say more.")
    assert len(title) <= 80
    assert [row.pk for row in listed(ME, "q=RUDDER")] == [new.pk]


def test_it_belongs_to_who_began_it() -> None:
    row, question = begin()
    given = answer(question, "A spine.")
    assert listed(YOU) == []
    for refused in (
        lambda: conversations.get(YOU, row.pk), lambda: conversations.change(YOU, row.pk, title="mine"),
        lambda: conversations.delete(YOU, row.pk), lambda: conversation_turns.ask(YOU, row.pk, "x"),
        lambda: collected.collect(YOU, row.pk, given.pk, "stolen"),
        lambda: votes.vote(YOU, row.pk, given.pk, given.pk, "tie"),
    ):  # fmt: skip
        with pytest.raises(NotFoundError, match=f"conversation {row.pk}"):
            refused()


@pytest.mark.parametrize(
    ("content", "parent", "beside", "word"),
    [(" ", None, None, "characters"), ("x", 999, None, "parent"), ("x", None, 999, "beside"),
     ("x", "left", "elsewhere", "other answer"), ("x", "question", None, "no answer")],
)  # fmt: skip
def test_a_question_stands_on_what_is_there(content: str, parent: Any, beside: Any, word: str) -> None:
    row, first = begin()
    left = answer(first, "L", "left")
    elsewhere = answer(conversation_turns.ask(ME, row.pk, "other"), "E")
    known = {"left": left.pk, "elsewhere": elsewhere.pk, "question": first.pk}
    before = Turn.objects.count()
    with pytest.raises(PilothouseError, match=word):
        conversation_turns.ask(ME, row.pk, content, known.get(parent, parent), known.get(beside, beside))
    assert Turn.objects.count() == before


def test_nothing_stands_on_an_answer_that_is_still_being_written() -> None:
    row, question = begin()
    written = conversation_turns.begin_answer(question, "left", "m", {}, is_blind=False)
    other = answer(question, "R", "right")
    for given in ((written.pk,), (other.pk, written.pk)):
        with pytest.raises(ConflictError, match="still being written"):
            conversation_turns.ask(ME, row.pk, "and then?", *given)
    conversation_turns.keep_answer(written.pk, "", "failed", {})
    assert texts(list(row.turns.all())) == ["What is a keel?", "R"]


def test_an_answer_without_a_word_goes_and_one_that_its_process_left_counts_as_broken_off() -> None:
    row, question = begin()
    silent = conversation_turns.begin_answer(question, "", "m", {}, is_blind=False)
    conversation_turns.keep_answer(silent.pk, "", "stopped", {})
    left = Turn.objects.create(conversation=row, parent=question, role="assistant", content="half", finish="writing")
    assert [turn["finish"] for turn in conversation_turns.whole_facts(row)["turns"]] == ["", "failed"]
    Turn.objects.filter(pk=left.pk).update(written_at=timezone.now())  # by another process
    assert [turn["finish"] for turn in conversation_turns.whole_facts(row)["turns"]] == ["", "writing"]
    assert conversation_turns.whole_facts(row)["turns"][-1]["id"] == left.pk


def test_renaming_deleting_and_settings() -> None:
    row, _ = begin()
    assert conversations.change(ME, row.pk, title="  Keels  and\nmore ", given={"model": "m"}).title == "Keels and more"
    for wrong in ({"title": " "}, {"title": "x" * 201}, {"given": {"system": "x" * 100_001}}):
        with pytest.raises(InvalidInputError):
            conversations.change(ME, row.pk, **wrong)
    conversations.delete(ME, row.pk)
    assert not Turn.objects.exists()
    assert AuditLine.objects.filter(action="conversation.delete").exists()


def test_old_conversations_go_when_the_setting_says_so() -> None:
    row, _ = begin()
    young, _ = begin()
    Conversation.objects.filter(pk=row.pk).update(updated_at=timezone.now() - timedelta(days=8))
    assert conversations.prune() == 0
    settings.put(SYSTEM, "chat.keep_days", 7)
    assert conversations.prune() == 1
    assert [left.pk for left in Conversation.objects.all()] == [young.pk]


# --- Votes ------------------------------------------------------------------------------------------------------------


def pair(left: str = "a", right: str = "b", *, blind: bool = False) -> tuple[Conversation, Turn, Turn]:
    """Two answers side by side."""
    row, question = begin()
    first, second = answer(question, "L", "left", left), answer(question, "R", "right", right)
    Turn.objects.filter(parent=question).update(is_blind=blind)
    return row, first, second


def test_wins_count_for_a_pair_whichever_side_a_model_stood_on() -> None:
    for (left, right), choice in (
        (("a", "b"), "left"),
        (("b", "a"), "left"),
        (("b", "a"), "right"),
        (("a", "b"), "tie"),
    ):
        row, first, second = pair(left, right, blind=left == "b")
        votes.vote(ME, row.pk, first.pk, second.pk, choice)
    (found,) = votes.pairs()
    assert (found["first"], found["second"], found["votes"], found["blind"]) == ("a", "b", 4, 2)
    assert (found["first_wins"], found["second_wins"], found["ties"], found["both_bad"]) == (2, 1, 1, 0)
    assert found["share"]["low"] < found["share"]["value"] == 2 / 3 < found["share"]["high"]
    (blind,) = votes.pairs(blind_only=True)
    assert (blind["first_wins"], blind["second_wins"]) == (1, 1)
    assert votes.as_csv().splitlines()[0] == "id,left_model,right_model,choice,blind,created_at"
    assert len(votes.as_csv().splitlines()) == 5


def test_a_second_vote_takes_the_firsts_place_and_is_not_blind_any_more() -> None:
    row, first, second = pair(blind=True)
    hidden = conversation_turns.whole_facts(row)["turns"][1:]
    assert [(turn["model"], turn["blind"]) for turn in hidden] == [(None, True)] * 2
    votes.vote(ME, row.pk, first.pk, second.pk, "left")
    shown = conversation_turns.whole_facts(row)
    assert [(turn["model"], turn["blind"]) for turn in shown["turns"][1:]] == [("a", False), ("b", False)]
    assert shown["votes"] == [{"left": first.pk, "right": second.pk, "choice": "left"}]
    votes.vote(ME, row.pk, first.pk, second.pk, "both_bad")
    assert [(vote.choice, vote.is_blind) for vote in Vote.objects.all()] == [("both_bad", False)]


def blind_exchange(row: Conversation, parent: Turn | None, beside: Turn | None) -> tuple[Turn, Turn]:
    """Two blind answers to the next question."""
    behind = (parent.pk, beside.pk) if parent and beside else ()
    question = conversation_turns.ask(ME, row.pk, "Q", *behind)
    first, second = answer(question, "L", "left", "a"), answer(question, "R", "right", "b")
    Turn.objects.filter(parent=question, role="assistant").update(is_blind=True)
    return first, second


def test_a_vote_tells_the_names_of_all_that_kept_the_sides_and_of_nothing_else() -> None:
    row = conversations.create(ME)
    one = blind_exchange(row, None, None)
    assert one[0].parent is not None
    again = answer(one[0].parent, "R again", "right", "b")
    Turn.objects.filter(pk=again.pk).update(is_blind=True)
    two, branch = blind_exchange(row, *one), blind_exchange(row, *one)
    three = blind_exchange(row, *two)
    apart = blind_exchange(row, None, None)  # another beginning: shuffled by itself
    assert votes.vote(ME, row.pk, two[0].pk, two[1].pk, "left").is_blind
    hidden = {turn["id"] for turn in conversation_turns.whole_facts(row)["turns"] if turn["blind"]}
    assert hidden == {turn.pk for turn in apart}
    for left, right in (one, (one[0], again), branch, three):
        assert not votes.vote(ME, row.pk, left.pk, right.pk, "left").is_blind
    behind = blind_exchange(row, *two)  # asked when the names were known: shuffled anew
    assert votes.vote(ME, row.pk, apart[0].pk, apart[1].pk, "left").is_blind
    assert not votes.vote(ME, row.pk, two[0].pk, two[1].pk, "right").is_blind
    assert votes.vote(ME, row.pk, behind[0].pk, behind[1].pk, "tie").is_blind


def test_a_collected_blind_answer_has_no_name_until_a_vote_or_a_dataset_tells_it(home: Path) -> None:
    row = conversations.create(ME)
    one, two = blind_exchange(row, None, None), blind_exchange(row, None, None)
    for turn in (one[0], two[0]):
        collected.collect(ME, row.pk, turn.pk, "good")
    assert collected.hidden(collected.rows_of(ME, "good")) == {one[0].pk, two[0].pk}
    votes.vote(ME, row.pk, one[0].pk, one[1].pk, "left")
    assert collected.hidden(collected.rows_of(ME, "good")) == {two[0].pk}
    made, _ = collected.make_dataset(ME, "good")
    assert made.generator_version == "a"
    assert collected.hidden(collected.rows_of(ME, "good")) == set()
    assert not votes.vote(ME, row.pk, two[0].pk, two[1].pk, "left").is_blind


def test_a_vote_is_on_a_left_and_a_right_answer_to_one_question() -> None:
    row, first, second = pair()
    for left, right, choice in ((second, first, "left"), (first, first, "left"), (first, second, "better")):
        with pytest.raises(InvalidInputError):
            votes.vote(ME, row.pk, left.pk, right.pk, choice)
    votes.vote(ME, row.pk, first.pk, second.pk, "right")
    conversations.delete(ME, row.pk)
    assert votes.pairs()[0]["second_wins"] == 1, "votes outlive their conversation"


# --- Collecting -------------------------------------------------------------------------------------------------------


def test_a_set_becomes_a_dataset_with_lineage_and_grows_into_the_next_version(home: Path) -> None:
    row, question = begin("Q1")
    first = answer(question, "A1", model="owner/one", asked={"system": "Be short.", "temperature": 0.5})
    second = answer(conversation_turns.ask(ME, row.pk, "Q2", first.pk), "A2", model="two")
    collected.collect(ME, row.pk, second.pk, "good")
    made, is_new = collected.make_dataset(ME, "good")
    assert (is_new, made.name, made.version, made.generator, made.generator_version) == (
        True, "good", 1, "pilothouse chat", "two",
    )  # fmt: skip
    assert made.job is not None
    assert made.job.kind == "validate"
    assert collected.make_dataset(ME, "good") == (made, False)
    collected.collect(ME, row.pk, first.pk, "good", with_system=True)
    next_one, _ = collected.make_dataset(ME, "good")
    assert (next_one.version, next_one.generator_version) == (2, "two, owner/one")
    lines = [json.loads(line) for line in (next_one.folder / "source.jsonl").read_text().splitlines()]
    assert [[(turn["role"], turn["content"]) for turn in line["messages"]] for line in lines] == [
        [("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")],
        [("system", "Be short."), ("user", "Q1"), ("assistant", "A1")],
    ]
    assert {item.dataset_id for item in CollectedExample.objects.all()} == {next_one.pk}
    assert list((home / "tmp").iterdir()) == []


def test_a_set_holds_an_answer_once_and_is_its_collectors_own() -> None:
    row, question = begin()
    given = answer(question, "A spine.")
    made = collected.collect(ME, row.pk, given.pk, " good ")
    assert made.set_name == "good"
    with pytest.raises(ConflictError, match="good holds this answer"):
        collected.collect(ME, row.pk, given.pk, "good")
    with pytest.raises(InvalidInputError, match="white space"):
        collected.collect(ME, row.pk, answer(question, "\n \n").pk, "good")
    for refused in (
        lambda: collected.rows_of(YOU, "good"), lambda: collected.remove(YOU, made.pk),
        lambda: collected.make_dataset(YOU, "good"), lambda: collected.collect(ME, row.pk, question.pk, "good"),
    ):  # fmt: skip
        with pytest.raises(NotFoundError):
            refused()
    assert collected.list_sets(YOU) == []
    conversations.delete(ME, row.pk)
    assert [item.turn_id for item in collected.rows_of(ME, "good")] == [None], "rows outlive their conversation"
    assert collected.remove(ME, made.pk) == "good"
    assert collected.list_sets(ME) == []
