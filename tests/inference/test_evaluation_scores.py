"""What an answer is worth, by each metric, and what all rows together come to."""

import math
from pathlib import Path
from typing import Any

import pytest

from inference.engine.base import ContextLengthError, EngineError, GenerationFailedError, OutOfMemoryError
from inference.evaluation.cases import Case
from inference.evaluation.lines import line_of
from inference.evaluation.log import RowLog
from inference.evaluation.options import EvaluationOptions
from inference.evaluation.scores import Judge, accuracy, contains, corpus_bleu, exact_match
from inference.evaluation.summary import summary
from inference.offline import OfflineAnswer
from monitoring.attempt import JobFaultError
from training.profiles.plain import PlainProfile
from training.profiles.regime3.profile import Regime3Profile


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("Paris", "paris.", True), ("  The  Rhine\n", "the Rhine", True), ("“Yes!”", "yes", True),
        ("ｆｕｌｌ", "full", True), ("STRASSE", "straße", True), ("-5", "5", False), ("3.5", "35", False),
        ("🤔 2", "2", False), ("", "", True), ("", "5", False),
    ],
)  # fmt: skip
def test_spelling_is_no_mistake_and_signs_are(answer: str, expected: str, same: bool) -> None:
    assert accuracy(answer, expected) == float(same)
    assert exact_match(answer, expected) == float(answer == expected)


def test_an_answer_may_contain_what_is_expected() -> None:
    assert contains("It is PARIS, of course.", "Paris.") == 1
    assert contains("It is Rome.", "Paris") == 0
    assert contains("anything", "…") == 0


def judged(metrics: list[str], answer: str, expected: str, profile: Any = None, **options: Any) -> Any:
    asked = EvaluationOptions(metrics=tuple(metrics), **options)
    case = Case(0, None, ({"role": "user", "content": "What is 2 + 3?"},), expected)
    return Judge(asked, profile or PlainProfile()).score(case, answer)


def test_words_in_any_script_count_for_rouge_and_bleu() -> None:
    same = judged(["rouge_l", "bleu"], "船は水の上 を行く, and on", "船は水の上 を行く, and on")
    assert same.values == {"accuracy": 1.0, "rouge_l": 1.0, "bleu": 1.0}
    other = judged(["rouge_l", "bleu"], "the ship sails on the sea", "the ship lies on the sand")
    assert other.values["rouge_l"] == pytest.approx(4 / 6)
    assert 0 < other.values["bleu"] < 0.6
    assert corpus_bleu([a + b for a, b in zip(same.bleu_counts, same.bleu_counts, strict=True)]) == pytest.approx(1)


def test_a_pattern_is_searched_for_and_may_not_take_for_ever() -> None:
    assert judged(["regex"], "it is 42", "x", pattern=r"\d+$").values["regex"] == 1
    assert judged(["regex"], "forty-two", "x", pattern=r"\d+$").values["regex"] == 0
    assert judged(["regex"], "a" * 60 + "!", "x", pattern=r"^(a|aa|aaa)+$(?<=b)").values["regex"] == 0


def test_the_profile_says_what_is_wrong() -> None:
    good = judged(["profile_check"], "<<ANS_START>> (add 2 3) = 5 <<ANS_END>>", "x", Regime3Profile())
    assert (good.values["profile_check"], good.faults) == (1.0, [])
    bad = judged(["profile_check"], "<<ANS_START>> (add 2 3) = 6 <<ANS_END>>", "x", Regime3Profile())
    assert bad.values["profile_check"] == 0
    assert [fault.code for fault in bad.faults] == ["wrong_result"]


@pytest.mark.parametrize(
    "section",
    [{"metrics": ["wit"]}, {"metrics": []}, {"metrics": ["regex"]}, {"metrics": ["regex"], "pattern": "("},
     {"take": -1}, {"max_tokens": 0}, {"speed": 3}],
)  # fmt: skip
def test_a_setting_at_fault_is_named(section: dict[str, Any]) -> None:
    with pytest.raises(JobFaultError) as fault:
        EvaluationOptions.from_config({"evaluation": section})
    assert fault.value.code == "bad_setting"
    assert fault.value.fix


def line(row: int, accuracy: float | None, nats: float | None = None, tokens: int = 0) -> dict[str, Any]:
    scores = {} if accuracy is None else {"accuracy": accuracy}
    return {"row": row, "error": "" if scores else "full", "scores": scores, "nats": nats, "tokens": tokens}


def test_losses_are_weighed_by_tokens_and_what_failed_is_no_mistake() -> None:
    asked = EvaluationOptions(metrics=("accuracy", "loss", "perplexity", "bleu"))
    found = summary([line(0, 1, 10.0, 10), line(1, 0, 30.0, 10), line(2, None, None, 0)], asked)
    assert (found["accuracy"], found["correct"], found["total_samples"], found["failed"]) == (0.5, 1, 3, 1)
    assert found["avg_loss"] == found["loss"] == 2.0
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["bleu"] is None
    assert summary([line(0, None)], asked)["avg_loss"] is None
    assert summary([line(0, 1, 9000.0, 10)], asked)["perplexity"] is None


def test_rows_that_failed_for_the_device_are_not_carried_over(tmp_path: Path) -> None:
    for number, name in ((1, "a"), (2, "b")):
        (tmp_path / str(number)).mkdir()
        with RowLog(tmp_path / str(number), "rows.jsonl") as log:
            assert log.rows == (set() if number == 1 else {1})
            log.add({"row": 1 if number == 1 else 2, "error": "too long", "by": name})
            log.add({"row": 3, "error": "full", "retry": True})
    with RowLog(tmp_path / "3", "rows.jsonl") as log:
        assert log.rows == {1, 2}


def logged(metrics: tuple[str, ...], answer: OfflineAnswer | None, **loss: Any) -> dict[str, Any]:
    """The line of a row, and with it what the row counts for in `failed`."""
    options = EvaluationOptions(metrics=metrics)
    case = Case(0, None, ({"role": "user", "content": "2 + 3?"},), "5")
    line = line_of(case, answer, Judge(options, PlainProfile()), {"sum": 0.0, "tokens": 0, **loss}, options)
    return {**line, "failed": summary([line], options)["failed"]}


def test_a_loss_that_nobody_asked_for_fails_no_row() -> None:
    answer = OfflineAnswer(("5",), ("stop",))
    line = logged(("accuracy",), answer, error="full", retry=True)
    assert (line["error"], line["loss_error"], line["failed"]) == ("", "full", 0)
    assert "retry" not in line, "what was asked for is there"
    assert line["scores"] == {"accuracy": 1.0}
    asked = logged(("accuracy", "loss"), answer, error="full", retry=True)
    assert (asked["error"], asked["loss_error"], asked["failed"], asked["retry"]) == ("full", "full", 1, True)
    assert "retry" not in logged(("loss",), None, error="refused"), "it is the row's own fault"


@pytest.mark.parametrize(
    ("error", "retry"),
    [(OutOfMemoryError("full"), True), (GenerationFailedError("broken"), True), (ContextLengthError("long"), False)],
)
def test_an_answer_that_failed_for_the_device_is_tried_again(error: EngineError, retry: bool) -> None:
    line = logged(("accuracy",), OfflineAnswer(error=error))
    assert (line["error"], line.get("retry", False), line["failed"]) == (error.message, retry, 1)


def test_what_is_asked_and_not_answered_counts_as_wrong_by_every_metric() -> None:
    asked = EvaluationOptions(metrics=("contains", "regex", "rouge_l", "bleu", "profile_check"), pattern=".*")
    judge, failed = Judge(asked, PlainProfile()), OfflineAnswer(error=ContextLengthError("long"))
    case = Case(0, None, ({"role": "user", "content": "2 + 3?"},), "!")
    line = line_of(case, failed, judge, {}, asked)
    assert line["unanswered"]
    assert line["scores"] == dict.fromkeys(judge.score(case, "5").values, 0.0)
    right = line_of(case, OfflineAnswer(("!",), ("stop",)), judge, {}, asked)
    found = summary([{**line, "tokens": 0}, {**right, "tokens": 0}], asked)
    assert (found["accuracy"], found["correct"] / found["total_samples"]) == (0.5, 0.5)
    raw = Case(1, None)
    assert line_of(raw, failed, judge, {}, asked)["scores"] == {}, "it can't be asked"


def test_an_attempt_begins_with_what_earlier_ones_logged(tmp_path: Path) -> None:
    first = tmp_path / "1"
    first.mkdir()
    whole = b'{"row": 3, "x": 1}\n{"row": 4}\n'
    (first / "rows.jsonl").write_bytes(whole + b'{"row": 3, "x": 2}\nnonsense\n{"row": 5')
    with RowLog(tmp_path / "3", "rows.jsonl") as log:
        assert log.rows == {3, 4}
        log.add({"row": 9, "text": "漢字"})
        assert [value["row"] for value in log.read()] == [3, 4, 9]
    assert (tmp_path / "3" / "rows.jsonl").read_bytes().startswith(whole)
    with RowLog(tmp_path / "4", "rows.jsonl") as log:
        assert log.rows == {3, 4, 9}
