"""The level DEEP: leaks, near doubles, what the evaluation shares, faults of a profile."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from training.data.deep import Comparison, deep_report, leaked_answer, signature_of
from training.data.specs import ChatExample, Example, TextExample
from training.profiles.base import AnswerFault
from training.profiles.plain import PlainProfile

ANSWER = "The lighthouse was built in the year of the great storm."
WORDS = [f"word{number}" for number in range(500)]


def chat(question: str, answer: str) -> ChatExample:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def long_text(seed: int) -> TextExample:
    return {"text": " ".join(random.Random(seed).choices(WORDS, k=300))}


def changed(example: TextExample) -> TextExample:
    """The same with another last word."""
    return {"text": example["text"].rpartition(" ")[0] + " other"}


def write(path: Path, examples: list[Any]) -> Path:
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


def report_of(path: Path, examples: list[Any], **options: Any) -> dict[str, Any]:
    given = {"eval_fraction": 0.1, "eval_rows": None, "profile": None, **options}
    return deep_report(write(path / "rows.jsonl", examples), len(examples), on_rows=lambda done: None, **given)


@pytest.mark.parametrize(
    ("example", "is_leaked"),
    [
        (chat(f"Repeat: {ANSWER.upper()} Now.", ANSWER), True),
        (chat("When was the lighthouse built?", ANSWER), False),
        (chat("Yes or no? Say yes.", "Yes"), False),
        ({"messages": [{"role": "system", "content": ANSWER}, *chat("When?", ANSWER)["messages"]]}, True),
        ({"messages": [*chat("When?", ANSWER)["messages"], *chat("When?", ANSWER)["messages"]]}, False),
        ({"text": ANSWER * 2}, False),
    ],
)
def test_an_answer_in_its_question_is_a_leak(example: Example, is_leaked: bool) -> None:
    assert (leaked_answer(example) is not None) is is_leaked


def test_leaks_are_named_by_row(tmp_path: Path) -> None:
    found = report_of(tmp_path, [chat("When?", ANSWER), chat(ANSWER, ANSWER)])["leaks"]
    assert found["count"] == 1
    assert found["rows"] == [{"row": 2, "message": f"An answer stands in its own question: “{ANSWER.lower()[:60]}”."}]


def test_near_doubles_are_found_and_others_are_not(tmp_path: Path) -> None:
    examples = [long_text(seed) for seed in range(30)]
    examples[20] = changed(examples[3])
    examples[25] = changed(examples[20])
    found = report_of(tmp_path, examples)["near_duplicates"]
    assert found["count"] == 2
    assert found["rows"][0] == {"row": 21, "message": "Nearly the same as row 4."}
    assert found["rows"][1]["row"] == 26


def test_the_signature_estimates_how_alike_two_texts_are() -> None:
    one = long_text(1)
    assert signature_of(one).jaccard(signature_of(changed(one))) > 0.9
    assert signature_of(one).jaccard(signature_of(long_text(2))) < 0.1
    assert signature_of({"text": "one word"}).jaccard(signature_of({"text": "One  word"})) == 1


def test_rows_that_the_evaluation_has_too(tmp_path: Path) -> None:
    examples = [long_text(seed) for seed in range(10)]
    held = write(tmp_path / "held.jsonl", [long_text(99), changed(examples[6])])
    found = report_of(tmp_path, examples, eval_rows=held)["evaluation"]
    assert (found["count"], found["rows"]) == (
        1, [{"row": 7, "message": "Nearly the same as row 2 of the evaluation set."}],
    )  # fmt: skip
    assert report_of(tmp_path, examples)["evaluation"]["count"] is None


def test_what_a_split_will_share_is_what_splits_share() -> None:
    """The formula against 2,000 real splits of ten groups of three."""
    comparison = Comparison(None)
    examples = [long_text(number // 3) for number in range(30)]
    for number, example in enumerate(examples, start=1):
        comparison.add(number, example)
    generator = random.Random(7)
    shared = 0
    for _ in range(2000):
        held = [generator.random() < 0.3 for _ in examples]
        trained = {number // 3 for number, is_held in enumerate(held) if not is_held}
        shared += sum(is_held and number // 3 in trained for number, is_held in enumerate(held))
    assert comparison.evaluation(0.3)["expected_in_split"] == pytest.approx(shared / 2000, abs=0.6)


class Polite(PlainProfile):
    """Wants a please in each answer."""

    def check(self, answer: str) -> list[AnswerFault]:
        return [] if "please" in answer else [AnswerFault("rude", "The answer lacks a please.")]


def test_faults_of_a_profile_are_counted_by_code(tmp_path: Path) -> None:
    rows = [chat("Hi", "Enter, please."), chat("Hi", "Enter."), {"text": "raw"}, chat("Hi", "Leave.")]
    found = report_of(tmp_path, rows, profile=Polite())["profile"]
    assert (found["count"], found["codes"]) == (2, {"rude": 2})
    assert found["rows"][0] == {"row": 2, "message": "The answer lacks a please."}


def test_of_a_large_set_an_even_sample_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.deep.COMPARED_ROWS", 10)
    report = report_of(tmp_path, [{"text": f"text number {number}"} for number in range(35)])
    assert (report["rows"], report["compared_rows"]) == (35, 10)
