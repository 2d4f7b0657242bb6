"""The profile `regime3`: one pair of markers, answers that a program can check, and examples by level."""

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.specs import ChatExample, Message
from training.profiles.base import BrokenProfileError, faults_of, load_profile
from training.profiles.regime3.answers import END, START, between, read_statement, with_one_pair
from training.profiles.regime3.decode import decode
from training.profiles.regime3.encode import encode
from training.profiles.regime3.evaluate import evaluate
from training.profiles.regime3.expression import canonical
from training.profiles.regime3.samples import LEVELS, SamplesError, samples

EXAMPLE = f"{START} (add 2 3) = 5 {END}"
PROFILE = load_profile("regime3")


def chat(*turns: tuple[str, str]) -> ChatExample:
    """A conversation of (role, content)."""
    return ChatExample(messages=[Message(role=role, content=content) for role, content in turns])  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("answer", "paired"),
    [
        (EXAMPLE, EXAMPLE),
        ("(add 2 3) = 5", EXAMPLE),
        (" (add 2 3) = 5 \n", EXAMPLE),
        (f"{START} (add 2 3) = 5", EXAMPLE),
        (f"(add 2 3) = 5 {END}", EXAMPLE),
        (f"First so.\n{EXAMPLE}", f"First so.\n{EXAMPLE}"),
        (f"{START} 4 {END} no: {EXAMPLE}", f" 4  no: {EXAMPLE}"),
        (f"{START}{EXAMPLE}{END}", EXAMPLE),
        (f"{END} upside down {START}", f"{START} upside down {END}"),
        ("", f"{START}  {END}"),
    ],
)
def test_an_answer_gets_exactly_one_pair(answer: str, paired: str) -> None:
    assert with_one_pair(answer) == paired


PIECES = st.lists(
    st.sampled_from([START, END, "<<ANS_", "START>>", "END>>", "x", " ", "\n", "(add 2 3) = 5"]), max_size=9
)


@given(PIECES.map("".join))
def test_one_pair_is_there_whatever_was_and_stays_the_only_one(answer: str) -> None:
    once = with_one_pair(answer)
    assert between(once) is not None
    assert with_one_pair(once) == once


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), PIECES.map("".join)), max_size=4))
def test_it_is_pure_and_done_twice_is_done_once(turns: list[tuple[str, str]]) -> None:
    example = chat(*turns)
    before = deepcopy(example)
    once = PROFILE.transform(example, 3)
    assert example == before
    assert PROFILE.transform(once, 4) == once


def test_the_system_prompt_asks_for_form_markers_and_steps() -> None:
    prompt = PROFILE.system_prompt(date(2026, 11, 25))
    for part in ("step by step", "canonical form", START, END, "(op arg1 arg2 ...)"):
        assert part in prompt
    messages = PROFILE.transform(chat(("user", "What is 2 + 3?"), ("assistant", "(add 2 3) = 5")), 0)["messages"]
    assert [message["content"] for message in messages] == [prompt, "What is 2 + 3?", EXAMPLE]
    assert load_profile("regime3", system_prompt="Be kind.").system_prompt(date.today()) == f"Be kind.\n\n{prompt}"


def test_it_takes_no_options() -> None:
    with pytest.raises(BrokenProfileError, match="no options, but level was given"):
        load_profile("regime3", options={"level": 3})


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        (EXAMPLE, []),
        (f"(mul 2 3) = 6\n{START} (add (mul 2 3) 1) = 7 {END} Done.", []),
        (f"{START} (div 1 3) = 1/3 {END}", []),
        (f"{START} (div 5 2) = 2.5 {END}", []),
        (f'{START} (lt "a" "b") = true {END}', []),
        (f"{START} 5 = 5 {END}", []),
        (f"{START} (add 2 3) = 6 {END}", ["wrong_result"]),
        (f"{START} (lt 2 3) = 1 {END}", ["wrong_result"]),
        (f"{START} (add 2 3) {END}", ["unreadable_statement"]),
        (f"{START} (add 2 3) = five {END}", ["unreadable_statement"]),
        (f"{START} 2 + 3 = 5 {END}", ["unreadable_statement"]),
        (f"{START} (div 2 0) = 0 {END}", ["no_value"]),
        (f"{EXAMPLE} {EXAMPLE}", ["no_marker_pair"]),
        ("(add 2 3) = 5", ["no_marker_pair"]),
        ("  ", ["empty_answer"]),
    ],
)
def test_an_answer_is_checked(answer: str, codes: list[str]) -> None:
    assert [fault.code for fault in PROFILE.check(answer)] == codes


def test_faults_say_what_would_be_right_and_where_reading_ended() -> None:
    assert PROFILE.check(f"{START} (add 2 3) = 6 {END}")[0].message == "The result is 5, not 6."
    message = PROFILE.check(f"{START} (add 2 3) = (neg 5 {END}")[0].message
    assert message == "Between the markers: At character 13: this parenthesis is never closed."


@pytest.mark.parametrize("level", LEVELS)
def test_examples_of_a_level_are_distinct_and_right(level: int) -> None:
    made = list(samples(120, level, seed=5))
    stated = [between(example["messages"][1]["content"]) or "" for example in made]
    assert len(set(stated)) == 120
    for example, text in zip(made, stated, strict=True):
        assert faults_of(PROFILE, example) == []
        assert PROFILE.transform(example, 0)["messages"][1:] == example["messages"]
        *steps, _ = example["messages"][1]["content"].splitlines()
        for step in steps:
            statement = read_statement(step)
            assert evaluate(statement.expression) == statement.result
        assert read_statement(text).expression.depth <= LEVELS[level].depth


@given(st.integers(), st.sampled_from(sorted(LEVELS)))
def test_the_question_encodes_to_what_the_answer_states(seed: int, level: int) -> None:
    (example,) = samples(1, level, seed)
    question, answer = (message["content"] for message in example["messages"])
    form = canonical(read_statement(between(answer) or "").expression)
    assert decode(form)
    assert form in {encode(part) for part in _infix_parts(question)}


def _infix_parts(question: str) -> list[str]:
    """What stands in a question's frame."""
    heads = ("What is ", "Compute ", "Work out ", "Evaluate ", "Is ", "Does this hold: ")
    head = next(head for head in heads if question.startswith(head))
    return [question.removeprefix(head).rstrip("?.").removesuffix(" true or false")]


def test_the_same_seed_makes_the_same_examples_and_another_others() -> None:
    first, again, other = (list(samples(30, 3, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_examples_come_as_they_are_made() -> None:
    endless = samples(10**9, 5, seed=0)
    assert len(list(islice(endless, 3))) == 3


def test_a_level_can_be_used_up_and_says_so() -> None:
    whole = {example["messages"][1]["content"] for example in samples(30_000, 1, seed=0)}
    assert len(whole) == 30_000


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: samples(30_001, 1, 0), "Level 1 has 30,000 distinct examples, not 30,001. Take a higher level."),
        (lambda: samples(1, 9, 0), "There is no level 9: choose 1 to 5."),
        (lambda: samples(-1, 2, 0), "-1 examples can't be made"),
    ],
)
def test_what_can_not_be_made_is_refused_at_once(ask: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SamplesError, match=sentence):
        ask()


def test_the_command_writes_json_lines() -> None:
    command = [sys.executable, "-m", "training.profiles.regime3", "--count", "3", "--level", "2", "--seed", "9"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in ran.stdout.splitlines()] == list(samples(3, 2, 9))
    refused = subprocess.run([*command[:-3], "7"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", "There is no level 7: choose 1 to 5.\n")
