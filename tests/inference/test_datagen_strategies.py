"""What the strategies ask and what they make of answers, driven by hand; what the keeper keeps; what is like what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.datagen import paraphrase, self_instruct
from inference.datagen.answer import Answer
from inference.datagen.keeping import Keeper
from inference.datagen.options import GenerationOptions
from inference.datagen.paraphrase import Paraphrase
from inference.datagen.seeds import Seeds
from inference.datagen.self_instruct import SelfInstruct
from inference.datagen.shards import Shards
from inference.datagen.similarity import KnownPrompts
from inference.datagen.tries import Drop, End, Outcome, Question, Row, Try
from inference.datagen.written import first_of_list, is_prompt, without_frame
from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter
from tests.inference.datagen import chat, contents, rows_of, write_seeds
from training.data.specs import Message
from training.profiles.base import Profile
from training.profiles.emoji import asked_in
from training.profiles.emoji_think import EmojiThinkProfile
from training.profiles.plain import PlainProfile
from training.profiles.regime3.profile import Regime3Profile

PLAIN = PlainProfile()
RAW = {"text": "Nobody asks here."}


def played(one: Try, *answers: str) -> tuple[list[Question], End]:
    """What a try asks while it is given these answers, and how it ends."""
    if isinstance(one, Row | Drop):
        return [], one
    asked = [next(one)]
    for answer in answers:
        try:
            asked.append(one.send(answer))
        except StopIteration as stop:
            end: End = stop.value
            return asked, end
    raise AssertionError("the try asks once more")


def seeds(folder: Path, *rows: dict[str, Any]) -> Seeds:
    return Seeds(write_seeds(folder, rows), 42)


def said(turns: Sequence[Message]) -> list[tuple[str, str]]:
    return [(turn["role"][0], turn["content"]) for turn in turns]


# --- answer -----------------------------------------------------------------------------------------------------------


def test_every_turn_of_the_user_is_answered_behind_the_model_s_own_answers(tmp_path: Path) -> None:
    (one,) = Answer(seeds(tmp_path, chat("Hi.", "old", "And?", "older", system="Be brief.")), PLAIN).tries(0)
    asked, end = played(one, "new", "newer")
    assert said(asked[0].messages) == [("s", "Be brief."), ("u", "Hi.")]
    assert said(asked[1].messages) == [("s", "Be brief."), ("u", "Hi."), ("a", "new"), ("u", "And?")]
    assert isinstance(end, Row)
    assert said(end.messages) == [*said(asked[1].messages), ("a", "newer")]
    assert end.seed_row == 0


def test_turns_of_one_role_are_answered_once_and_a_last_one_too(tmp_path: Path) -> None:
    turns = [("user", "Hi."), ("user", "You there?"), ("assistant", "a"), ("assistant", "b"), ("user", "Bye.")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (one,) = Answer(seeds(tmp_path, row), PLAIN).tries(0)
    _, end = played(one, "Yes.", "See you.")
    assert isinstance(end, Row)
    assert said(end.messages) == [("u", "Hi."), ("u", "You there?"), ("a", "Yes."), ("u", "Bye."), ("a", "See you.")]


@pytest.mark.parametrize(("profile", "own"), [(PlainProfile("Be kind."), []), (Regime3Profile(), [])])
def test_the_profile_s_system_prompt_is_no_part_of_a_row(tmp_path: Path, profile: Profile, own: list[str]) -> None:
    (one,) = Answer(seeds(tmp_path, chat("Hi.", "old")), profile).tries(0)
    asked, end = played(one, "new")
    assert asked[0].apply_profile, "it is asked with it nevertheless"
    assert isinstance(end, Row)
    assert said(end.messages) == [("u", "Hi."), ("a", "new")]


def test_a_question_asks_for_the_profile_s_form(tmp_path: Path) -> None:
    (one,) = Answer(seeds(tmp_path, chat("Hi.", "old")), EmojiThinkProfile()).tries(0)
    asked, _ = played(one, "new")
    assert asked_in(asked[0].messages[-1]["content"]) is not None


def test_seeds_come_in_the_order_of_the_seed_and_what_asks_nothing_is_dropped(tmp_path: Path) -> None:
    rows = [RAW, *(chat(f"Say {number}.", "old") for number in range(20))]
    folder = write_seeds(tmp_path, rows)
    orders = [[played(one, "new")[1] for one in Answer(Seeds(folder, seed), PLAIN).tries(0)] for seed in (1, 1, 2)]
    places = [[(isinstance(end, Row) and end.seed_row) or 0 for end in order] for order in orders]
    assert places[0] == places[1] != places[2]
    assert sorted(places[0]) == sorted(places[2]) == list(range(21))
    (dropped,) = (end for end in orders[0] if isinstance(end, Drop))
    assert (dropped.reason, dropped.detail) == ("unreadable", "Row 1 of the seeds is raw text, which asks nothing.")
    later = [played(one, "new")[1] for one in Answer(Seeds(folder, 1), PLAIN).tries(15)]
    assert later == orders[0][15:]


# --- paraphrase -------------------------------------------------------------------------------------------------------


def test_every_turn_of_the_user_is_said_anew_and_answers_are_kept(tmp_path: Path) -> None:
    rows = seeds(tmp_path, chat("Hi.", "old", "And?", "older", "Bye.", system="Be brief."))
    (one,) = Paraphrase(rows, PLAIN, "sailing").tries(0)
    asked, end = played(one, "New message: “Hello.”", "Then?")
    assert [list(question.messages) for question in asked] == [
        paraphrase.request(text, "sailing") for text in ("Hi.", "And?")
    ]
    assert "sailing" in asked[0].messages[-1]["content"]
    assert asked[0].messages[-1]["content"].endswith("\n\nHi.")
    assert not any(question.apply_profile for question in asked)
    assert isinstance(end, Row)
    assert said(end.messages) == [("s", "Be brief."), ("u", "Hello."), ("a", "old"), ("u", "Then?"), ("a", "older")]
    assert (end.seed_row, end.new_prompt) == (0, "Hello.\nThen?")


def test_a_message_that_says_nothing_is_none(tmp_path: Path) -> None:
    (one,) = Paraphrase(seeds(tmp_path, chat("Hi.", "old")), PLAIN, "").tries(0)
    assert played(one, "…!")[1] == Drop("unreadable", "No prompt: '…!'")


def test_a_kept_answer_is_in_the_profile_s_form(tmp_path: Path) -> None:
    profile = EmojiThinkProfile()
    (one,) = Paraphrase(seeds(tmp_path, chat("Hi.", "old")), profile, "").tries(0)
    _, end = played(one, "Hello.")
    assert isinstance(end, Row)
    user, answer = contents({"messages": end.messages})
    assert profile.check_reply(user, answer) == []
    assert "\nold\n" in answer
    assert end.new_prompt == "Hello.", "compared is what the model wrote"


# --- self_instruct ----------------------------------------------------------------------------------------------------


def test_some_seeds_are_shown_a_prompt_is_written_and_answered(tmp_path: Path) -> None:
    rows = [RAW, RAW, *(chat(f"Say {number}.", "old") for number in range(6)), chat("x" * 700, "old")]
    strategy = SelfInstruct(seeds(tmp_path, *rows), PLAIN, seed=1, domain="the sea")
    first = next(strategy.tries(0))
    asked, end = played(first, "5. What is a reef?\n6. And a bay?", "A ridge.")
    shown = [turn["content"] for turn in asked[0].messages if turn["role"] == "assistant"]
    assert len(set(shown)) == 4
    assert all(prompt.startswith("Say ") or prompt == "x" * 600 + "…" for prompt in shown)
    assert "the sea" in asked[0].messages[-1]["content"]
    assert not asked[0].apply_profile
    assert (said(asked[1].messages), asked[1].new_prompt) == ([("u", "What is a reef?")], "What is a reef?")
    assert asked[1].apply_profile
    assert end == Row([*asked[1].messages, Message(role="assistant", content="A ridge.")], None, "What is a reef?")


def test_each_try_draws_its_own_seeds_and_always_the_same(tmp_path: Path) -> None:
    rows = [chat(f"Say {number}.", "old") for number in range(30)]
    strategy = SelfInstruct(seeds(tmp_path, *rows), PLAIN, seed=1, domain="")

    def shown(first: int, count: int) -> list[str]:
        tries = strategy.tries(first)
        return [str(played(next(tries), "What?", "That.")[0][0].messages) for _ in range(count)]

    whole = shown(0, 8)
    assert len(set(whole)) == 8
    assert shown(5, 3) == whole[5:]


def test_where_all_seeds_are_raw_text_nothing_is_asked(tmp_path: Path) -> None:
    one = next(SelfInstruct(seeds(tmp_path, RAW), PLAIN, seed=1, domain="").tries(0))
    assert isinstance(one, Drop)
    assert one.reason == "unreadable"


def test_a_new_prompt_is_asked_in_the_profile_s_form(tmp_path: Path) -> None:
    strategy = SelfInstruct(seeds(tmp_path, chat("Hi.", "old")), EmojiThinkProfile("Be kind."), seed=1, domain="")
    asked, _ = played(next(strategy.tries(3)), "What is a reef?", "A ridge.")
    (turn,) = asked[1].messages
    assert turn["content"].startswith("What is a reef?\n\n")
    assert asked_in(turn["content"]) is not None
    assert asked[1].new_prompt == "What is a reef?"


def test_requests_without_a_subject_say_nothing_of_one() -> None:
    assert "subject" not in str([self_instruct.request(["Hi."]), paraphrase.request("Hi.")])


# --- what a model wrote -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "one", "first"),
    [
        ("What is a reef?", "What is a reef?", "What is a reef?"),
        (' "What is a reef?" \n', "What is a reef?", "What is a reef?"),
        ("Request: What is a reef?", "What is a reef?", "What is a reef?"),
        ('"A" or "B"?', '"A" or "B"?', '"A" or "B"?'),
        ("5. What is a reef?\n6. A bay?", "5. What is a reef?\n6. A bay?", "What is a reef?"),
        ("What is it?\nAnswer: a reef", "What is it?\nAnswer: a reef", "What is it?"),
        ("Sort these:\n- b\n- a", "Sort these:\n- b\n- a", "Sort these:\n- b\n- a"),
        ("Sort these:\n1. b\n2. a", "Sort these:\n1. b\n2. a", "Sort these:\n1. b\n2. a"),
        ("Fix this:\nInput: a\nOutput: b", "Fix this:\nInput: a\nOutput: b", "Fix this:\nInput: a\nOutput: b"),
        ("2 + 2?", "2 + 2?", "2 + 2?"),
        ('"', '"', '"'),
        ("", "", ""),
    ],
)
def test_a_prompt_is_found_in_what_was_written(written: str, one: str, first: str) -> None:
    assert (without_frame(written), first_of_list(written)) == (one, first)


def test_what_can_t_be_asked_is_no_prompt() -> None:
    assert [is_prompt(text) for text in ("Hi", "錨?", "", "?!", "x" * 4_001)] == [True, True, False, False, False]


# --- similarity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "new", "threshold", "is_like"),
    [
        ("What is the anchor for?", "what IS  the anchor\nfor?", 1.0, True),
        ("What is the anchor for?", "What is the anchor for, please?", 0.6, True),
        ("What is the anchor for?", "What is the anchor for, please?", 0.95, False),
        ("What is the anchor for?", "Count from one to ten.", 0.3, False),
        ("錨は何のためにありますか", "錨は何のためにありますか。", 0.7, True),
        ("錨は何のためにありますか", "帆の色は何色でしょうか", 0.7, False),
        ("Hi", "Hi", 0.7, True),
        ("Hi", "Ho", 0.7, False),
    ],
)
def test_prompts_are_alike_by_their_runs_of_characters(known: str, new: str, threshold: float, is_like: bool) -> None:
    prompts = KnownPrompts(threshold)
    prompts.add("Something else altogether, which nobody means.")
    assert not prompts.has_like(new)
    prompts.add(known)
    assert prompts.has_like(new) is is_like


def test_any_threshold_that_may_be_set_can_be_had() -> None:
    for hundredths in range(0, 101, 5):
        prompts = KnownPrompts(hundredths / 100)
        prompts.add("What is the anchor for?")
        assert prompts.has_like("What is the anchor for?")


# --- the keeper -------------------------------------------------------------------------------------------------------


def row(question: str, answer: str, new_prompt: str = "") -> Row:
    return Row([Message(role="user", content=question), Message(role="assistant", content=answer)], 0, new_prompt)


STATED = "<<ANS_START>> (add 2 3) = {} <<ANS_END>>"


@pytest.mark.parametrize(("check", "kept", "by_check"), [(True, 3, 1), (False, 4, 0)])
def test_each_try_is_kept_or_dropped_for_one_reason(tmp_path: Path, check: bool, kept: int, by_check: int) -> None:
    known = KnownPrompts(0.7)
    known.add("What is two and three?")
    sum_, other = "Add two and three, please.", "Which figure do both make together?"
    ends: list[tuple[End, str]] = [
        (row("a", STATED.format(5)), ""),
        (row("a", STATED.format(6)), ""),
        (row("a", STATED.format(5)), ""),
        (row(sum_, STATED.format(5), sum_), sum_),
        (row(sum_, STATED.format(5), sum_), sum_),
        (Drop("failed", "too long"), other),
        (row(other, STATED.format(5), other), other),
        (Drop("failed", "too long"), other),
        (Drop("unreadable"), ""),
        (row("b", "NUL \0 " + STATED.format(5)), ""),
        (row("a", "", "What is two and three"), "What is two and three"),
    ]
    options = GenerationOptions(num_examples=9, check=check)
    with EventWriter(tmp_path / "events.jsonl") as events:
        keeper = Keeper(options, Regime3Profile(), known, Shards(tmp_path), events)
        assert keeper.wanted_tries() == 9
        tally = keeper.keep(Outcome(number, end, prompt, 5) for number, (end, prompt) in enumerate(ends))
    assert len(rows_of(tmp_path)) == kept
    expected = {"check": by_check, "duplicate": 1, "similar": 3, "failed": 1, "unreadable": 2}
    assert tally.dropped == {reason: count for reason, count in expected.items() if count}
    assert (tally.tries, tally.generated_tokens, tally.ended) == (11, 55, "the seeds are used up")
    assert keeper.details["failed"] == "too long"
    assert keeper.wanted_tries() == -(-(9 - kept) * 12 // (kept + 1)), "one in so many tries was kept"


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"strategy": "distil"}, "There is no strategy 'distil'."),
        ({"num_examples": 0}, "num_examples is 0."),
        ({"num_examples": 1_000_001}, "num_examples is 1000001."),
        ({"num_examples": 1.5}, "num_examples is 1.5."),
        ({"temperature": float("nan")}, "temperature is nan."),
        ({"top_p": 0}, "top_p is 0."),
        ({"max_tokens": True}, "max_tokens is True."),
        ({"similarity_threshold": "0.7"}, "similarity_threshold is '0.7'."),
        ({"check": "no"}, "check is 'no'."),
        ({"domain": "x" * 501}, "domain is no text of at most 500 characters."),
        ({"seed": -1}, "seed is -1."),
        ({"beams": 4}, "data_generation has no setting 'beams'."),
    ],
)
def test_a_setting_that_can_t_be_is_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(JobFaultError) as caught:
        GenerationOptions.from_config({"data_generation": section})
    assert (caught.value.code, caught.value.message) == ("bad_setting", message)
    assert caught.value.fix


def test_tries_end_somewhere() -> None:
    assert [GenerationOptions(num_examples=count).most_tries for count in (1, 50, 51)] == [1_000, 1_000, 1_020]
