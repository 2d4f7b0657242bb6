"""The profile `emoji_think`: one contract a conversation, written once, kept by every answer, checked by a program."""

import re
from copy import deepcopy
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.specs import ChatExample, Message
from training.profiles.base import BrokenProfileError, faults_of, load_profile
from training.profiles.emoji import (
    STOP_COUNTS,
    STOP_POOL,
    THINK_COUNTS,
    THINK_POOL,
    Contract,
    Run,
    asked_in,
    closing_run,
    kept_by,
    run_at_end,
)

PROFILE = load_profile("emoji_think")
CONTRACT = Contract(Run("🧐", 3), Run("⏹️", 2))


def chat(*turns: tuple[str, str]) -> ChatExample:
    """A conversation of (role, content)."""
    return ChatExample(messages=[Message(role=role, content=content) for role, content in turns])  # type: ignore[typeddict-item]


def test_every_example_has_a_contract_of_its_own_and_always_the_same() -> None:
    drawn = [Contract.drawn(index) for index in range(2000)]
    assert drawn == [Contract.drawn(index) for index in range(2000)]
    assert {contract.think.emoji for contract in drawn} == set(THINK_POOL)
    assert {contract.stop.emoji for contract in drawn} == set(STOP_POOL)
    assert {contract.think.count for contract in drawn} == set(THINK_COUNTS) == {2, 3, 4, 5, 6, 7, 8}
    assert {contract.stop.count for contract in drawn} == set(STOP_COUNTS) == {2, 3, 4}
    # Written down, so that no other Python version draws otherwise unnoticed.
    assert Contract.drawn(0) == Contract(Run("✨", 5), Run("❌", 2))


def test_two_stop_emoji_are_two_code_points_and_one_unit() -> None:
    assert [len(emoji) for emoji in STOP_POOL if len(emoji) != 1] == [2, 2]
    assert run_at_end("done ⏹️⏹️⏹️") == Run("⏹️", 3)
    assert run_at_end("done 🛡️🛡️") == Run("🛡️", 2)
    assert run_at_end("a bare \u23f9") is None
    assert closing_run("done\n🛡️🛑") is None


def test_a_conversation_is_wrapped_turn_by_turn() -> None:
    turns = chat(
        ("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Ciao.")
    )
    contract = Contract.drawn(7)
    system, hi, hello, bye, ciao = (turn["content"] for turn in PROFILE.transform(turns, 7)["messages"])
    assert system == "Be kind."
    assert hi == f"Hi\n\n{contract.instructions}"
    assert bye == f"Bye\n\n{contract.instructions}"
    assert hello == f"{contract.think}\nHello.\n{contract.stop}"
    assert ciao == f"{contract.think}\nCiao.\n{contract.stop}"
    assert len(contract.instructions.splitlines()) == 2
    for run in (contract.think, contract.stop):
        assert f"{run.emoji} written {run.count} times" in contract.instructions


def test_think_tags_go_and_the_thoughts_stay() -> None:
    answer = "<think>\nHm.\n</think>\n\nYes. <THINK/>"
    wrapped = PROFILE.transform(chat(("user", "So?"), ("assistant", answer)), 0)["messages"][1]["content"]
    assert wrapped.splitlines()[1:-1] == ["Hm.", "", "", "Yes."]
    nested = PROFILE.transform(chat(("user", "So?"), ("assistant", "<thi<think>nk>Yes.")), 0)["messages"][1]["content"]
    assert nested.splitlines()[1:-1] == ["Yes."]


def test_a_question_keeps_a_think_tag_that_it_asks_about() -> None:
    asked = PROFILE.transform(chat(("user", "What is <think>?"), ("assistant", "A tag.")), 0)["messages"][0]["content"]
    assert asked.startswith("What is <think>?\n\n")


def test_a_conversation_that_has_a_contract_keeps_it_whatever_its_index() -> None:
    answered = f"{CONTRACT.think}\nHello.\n{CONTRACT.stop}"
    asked = chat(("user", f"Hi\n\n{CONTRACT.instructions}"), ("assistant", "Hello."))
    kept = chat(("user", "Hi"), ("assistant", answered))
    expected = [f"Hi\n\n{CONTRACT.instructions}", answered]
    for example in (asked, kept):
        assert [turn["content"] for turn in PROFILE.transform(example, 99)["messages"]] == expected
    assert asked_in(CONTRACT.instructions) == kept_by(answered) == CONTRACT


PIECES = st.lists(
    st.sampled_from([
        "Hello", " ", "\n", "🧐🧐🧐", "🧐", "⏹️⏹️", "⏹️", "\u23f9", "🛑🛑", "<think>", "</think>", "<thi", "nk>",
        CONTRACT.instructions, CONTRACT.instructions[:40], CONTRACT.instructions[40:],
    ]),
    max_size=7,
).map("".join)  # fmt: skip
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), PIECES), max_size=4)


@given(TURNS, st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["", "Be kind."]))
def test_it_is_pure_and_done_twice_is_done_once(
    turns: list[tuple[str, str]], index: int, later: int, prompt: str
) -> None:
    profile = load_profile("emoji_think", system_prompt=prompt)
    example = chat(*turns)
    before = deepcopy(example)
    once = profile.transform(example, index)
    assert example == before
    assert profile.transform(example, index) == once
    assert profile.transform(once, later) == once


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0, 10**6))
def test_what_it_makes_it_finds_right(question: str, answer: str, index: int) -> None:
    made = PROFILE.transform(chat(("user", question), ("assistant", answer)), index)
    assert faults_of(PROFILE, made) == []


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        ("🧐🧐🧐\nHello.\n⏹️⏹️", []),
        ("🧐🧐🧐\nHello.\n⏹️⏹️\n", []),
        ("🧐🧐🧐\n⏹️⏹️", []),
        ("Hello.", ["no_think_run", "no_stop_run"]),
        ("🧐🧐🧐 Hello.\n⏹️⏹️", ["no_think_run"]),
        ("🧐🤔🧐\nHello.\n⏹️⏹️", ["no_think_run"]),
        ("🧐🧐🧐\nHello. ⏹️⏹️", ["no_stop_run"]),
        ("🧐🧐🧐\nHello.\n⏹️🛑", ["no_stop_run"]),
        ("🧐🧐🧐\nHello.\n\u23f9\u23f9", ["no_stop_run"]),
        ("🧐🧐🧐\nHello.\n⏹️⏹️\nOne more thing.", ["text_after_stop"]),
        ("🧐\nHello.\n⏹️⏹️⏹️⏹️⏹️", ["wrong_think_run", "wrong_stop_run"]),
        ("🧐🧐🧐\n<think>Hello.</think>\n⏹️⏹️", ["think_tag"]),
        (" \n", ["empty_answer"]),
    ],
)
def test_an_answer_is_checked(answer: str, codes: list[str]) -> None:
    assert [fault.code for fault in PROFILE.check(answer)] == codes
    asked = chat(("user", CONTRACT.instructions), ("assistant", answer))
    assert [fault.code for fault in faults_of(PROFILE, asked)] == codes


def test_an_answer_is_held_to_what_was_asked() -> None:
    answer = "🤔🤔\nHello.\n🛑🛑"
    assert PROFILE.check(answer) == []
    faults = faults_of(PROFILE, chat(("user", f"Hi\n\n{CONTRACT.instructions}"), ("assistant", answer)))
    assert [fault.message for fault in faults] == [
        "The answer begins with 🤔 2 times, not 🧐 3 times.", "The answer ends with 🛑 2 times, not ⏹️ 2 times.",
    ]  # fmt: skip


def test_its_parts_are_those_of_the_design() -> None:
    assert PROFILE.processors == "emoji_think"
    assert "<|im_start|>" in (PROFILE.chat_template or "")
    assert "think" not in (PROFILE.chat_template or "")
    assert load_profile("emoji_think", system_prompt="Be kind.").system_prompt(date.today()) == "Be kind."
    with pytest.raises(BrokenProfileError, match=re.escape("no options, but pool was given")):
        load_profile("emoji_think", options={"pool": []})
