"""The verb `evaluate` on the taught model: once in this process, and once as a process that goes on where one died."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.loading import LoadedModel
from inference.evaluate import evaluate
from inference.evaluation.log import EXAMPLES_FILE, LOSSES_FILE
from monitoring.attempt import run_attempt
from monitoring.events import SPEC_FILE, Artefact, Inputs, JobSpec
from tests.inference.attempts import Attempt
from tests.inference.models import CHATS
from tests.product import CHECKOUT

METRICS = ["accuracy", "exact_match", "contains", "regex", "rouge_l", "bleu", "profile_check", "loss", "perplexity"]
TOO_LONG = "sail " * 1200
FULL = b'{"row": 6, "error": "full", "retry": true, "sum": 0.0, "tokens": 0, "nats": null, "scores": {}}\n'


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS = [
    *(chat(question, answer) for question, answer in CHATS.items()),
    chat("Count.", "One, two."),
    {"text": "Ahoy! It holds the ship."},
    chat(TOO_LONG, "No."),
]


class Evaluated(Attempt):
    """An attempt of an evaluation."""

    def lines(self, name: str = EXAMPLES_FILE) -> dict[int, dict[str, Any]]:
        values = [json.loads(line) for line in (self.folder / name).read_bytes().splitlines()]
        assert len({value["row"] for value in values}) == len(values), "each row once"
        return {value["row"]: value for value in values}


@pytest.fixture(scope="module")
def write(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the spec of an attempt; answers its path."""
    data = tmp_path_factory.mktemp("evaluated")
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    spec = JobSpec(
        job_id=1, attempt=1, kind="eval", verb="evaluate", host="here", output_dir=str(data),
        inputs=Inputs(dataset=Artefact("1", str(data)), model=Artefact("taught", str(taught_model))),
        config={"serving": {"dtype": "float32", "cpu_threads": 1, "max_batch": 4}},
    )  # fmt: skip

    def write(number: int, job: str = "whole", **section: Any) -> Path:
        whole = {"metrics": METRICS, "pattern": "^Ahoy", "max_tokens": 200, **section}
        folder = data / job / "attempts" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        one = replace(spec, attempt=number, config={**spec.config, "evaluation": whole})
        (folder / SPEC_FILE).write_text(json.dumps(one.to_json()))
        return folder / SPEC_FILE

    return write


@pytest.fixture(scope="module")
def first(write: Callable[..., Path]) -> Evaluated:
    """An evaluation from the beginning to the end."""
    spec = write(1)
    return Evaluated(spec.parent, run_attempt(spec, evaluate))


def test_each_row_is_answered_scored_and_logged(first: Evaluated) -> None:
    assert first.code == 0
    lines = first.lines()
    assert sorted(lines) == list(range(7))
    for row, (question, answer) in enumerate(CHATS.items()):
        line = lines[row]
        assert (line["question"], line["expected"], line["answer"]) == (question, answer, answer)
        assert {line["scores"][name] for name in ("accuracy", "exact_match", "rouge_l", "profile_check")} == {1.0}
        assert line["finish_reason"] == "stop"
    wrong = lines[4]
    assert (wrong["answer"], wrong["scores"]["accuracy"]) == (CHATS["Count."], 0.0)
    assert wrong["scores"]["regex"] == 0.0
    raw, too_long = lines[5], lines[6]
    assert (raw["scores"], raw["error"], raw["tokens"] > 3) == ({}, "", True)
    assert "context holds 1024 tokens" in too_long["error"], "a row that fails is told, and the others go on"
    assert too_long["unanswered"], "and counts as wrong"
    assert set(too_long["scores"].values()) == {0.0}
    assert set(too_long["scores"]) == set(lines[4]["scores"])


def test_the_figures_are_those_of_all_rows(first: Evaluated) -> None:
    found = first.result
    assert (found["total_samples"], found["failed"], found["correct"]) == (7, 1, 4)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert set(METRICS) <= set(found)
    assert found["regex"] == pytest.approx(2 / 6)
    assert 0 < found["corpus_bleu"] <= 1
    assert found["perplexity"] == pytest.approx(2.718281828 ** found["loss"], rel=1e-6)
    assert found["generated_tokens"] > 100
    progress = [event.body for event in first.events if event.body.kind == "progress"]
    assert {body.unit for body in progress} == {"steps", "tensors", "rows"}  # type: ignore[union-attr]


def test_losses_are_what_training_would_report(first: Evaluated, loaded: LoadedModel) -> None:
    """One row by hand: the tokens of the answer and its end, each given what stands before it."""
    question, answer = next(iter(CHATS.items()))
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    prompt = loaded.encoder.encode(text, add_special_tokens=False)
    said = loaded.encoder.encode(f"{answer}<|im_end|>", add_special_tokens=False)
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([[*prompt, *said]])).logits[0].log_softmax(-1)
    by_hand = -sum(float(logits[len(prompt) + at - 1, token]) for at, token in enumerate(said))
    line = first.lines(LOSSES_FILE)[0]
    assert line["tokens"] == len(said)
    assert line["sum"] == pytest.approx(by_hand, rel=1e-3, abs=1e-3)
    assert first.lines()[0]["nats"] == line["sum"]


def test_a_process_that_died_is_gone_on_from(first: Evaluated, write: Callable[..., Path]) -> None:
    """As a kill leaves it: some rows whole, the last one torn, one that memory didn't suffice for. The second attempt
    does only the rest, and that one again."""
    earlier = write(3).parent
    for name, rows in ((LOSSES_FILE, 5), (EXAMPLES_FILE, 2)):
        lines = (first.folder / name).read_bytes().splitlines(keepends=True)
        (earlier / name).write_bytes(b"".join(lines[:rows]) + FULL + lines[rows][:9])
    spec = write(4)
    command = [sys.executable, "-m", "inference", "evaluate", str(spec)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    again = Evaluated(spec.parent, done.returncode)
    assert "goes on: 5 losses and 2 rows of 7 are done already" in done.stderr
    other, before = again.lines(), first.lines()
    for row, line in before.items():  # another batch adds up in another order
        assert other[row].pop("nats") == pytest.approx(line["nats"], rel=1e-5)
        assert other[row] == {name: value for name, value in line.items() if name != "nats"}
    assert sorted(other) == sorted(before)
    own = {"seconds", "generated_tokens"}
    assert {k: v for k, v in again.result.items() if k not in own} == pytest.approx(
        {k: v for k, v in first.result.items() if k not in own}
    )
    assert 0 < again.result["generated_tokens"] < first.result["generated_tokens"]


def test_rows_are_those_that_a_seed_holds_out_and_without_answers_nothing_is_generated(
    write: Callable[..., Path],
) -> None:
    spec = write(1, "part", take=3, metrics=["loss"], keep_texts=False, seed=42)
    attempt = Evaluated(spec.parent, run_attempt(spec, evaluate))
    expected = torch.randperm(7, generator=torch.Generator().manual_seed(42)).tolist()[:3]
    assert sorted(attempt.lines()) == sorted(expected)
    assert (attempt.result["accuracy"], attempt.result["generated_tokens"]) == (None, 0)
    assert all("question" not in line for line in attempt.lines().values())


def test_a_dataset_that_has_gone_is_named(write: Callable[..., Path], tmp_path: Path) -> None:
    whole = json.loads(write(1, "gone").read_text())
    whole["inputs"]["dataset"]["path"] = str(tmp_path)
    spec = tmp_path / SPEC_FILE
    spec.write_text(json.dumps(whole))
    assert run_attempt(spec, evaluate) == 1
    error = Evaluated(tmp_path, 1).error
    assert error.code == "dataset_missing"
