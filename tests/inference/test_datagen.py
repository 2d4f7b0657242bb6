"""The verb `generate_data` with a model that knows what it is asked: each strategy from its spec to its shards."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.datagen import options, paraphrase, self_instruct, shards
from inference.generate_data import generate_data
from monitoring.attempt import run_attempt
from tests.inference.attempts import Attempt
from tests.inference.datagen import chat, contents, ended, rows_of, shard_bytes, started, write_seeds, write_spec
from tests.inference.models import CHATS, as_turns, build_taught_model
from tests.product import wait_for
from training.data.specs import ChatExample, Message
from training.profiles.emoji_think import EmojiThinkProfile

COUNT, ANCHOR = "Count.", "What is the anchor for?"
ANEW = "Please say what an anchor does."
INVENTED, ANSWER = "Name the rope.", "It ties the sail."
SHAPED = EmojiThinkProfile().transform(ChatExample(messages=as_turns((COUNT, "1 2 3"))), 0)["messages"]
KNOWN = [
    [*paraphrase.request(ANCHOR), Message(role="assistant", content=f"“{ANEW}”")],
    [*self_instruct.request([ANCHOR]), Message(role="assistant", content=f"2. {INVENTED}")],
    as_turns((INVENTED, ANSWER)),
    SHAPED,
]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 200}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model that knows CHATS and what KNOWN ends with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield build_taught_model(tmp_path_factory.mktemp("known"), KNOWN, steps=36)
    torch.set_num_threads(threads)


def attempt(spec: Path) -> Attempt:
    return Attempt(spec.parent, run_attempt(spec, generate_data))


def test_answers_are_given_anew(model: Path, tmp_path: Path) -> None:
    rows = [
        *(chat(question, "old") for question in CHATS),
        {"text": "Nobody asks here."},
        chat("sail " * 1200, "old"),
        chat(COUNT, "older"),
    ]
    seeds = write_seeds(tmp_path / "seeds", rows)
    job = tmp_path / "job"
    spec = write_spec(job, model=model, seeds=seeds, strategy="answer", num_examples=7, **GREEDY)
    found = ended(spec, started(spec))
    by_question = {contents(row)[0]: row for row in rows_of(job)}
    assert {question: contents(row)[1] for question, row in by_question.items()} == CHATS
    places = [row["seed_row"] for row in by_question.values()]
    assert {contents(rows[place])[0] for place in places} == set(CHATS)
    result = found.result
    assert (result["examples"], sum(result["dropped"].values())) == (4, 3)
    assert {reason for reason, count in result["dropped"].items() if count} == {"duplicate", "failed", "unreadable"}
    assert result["generated_tokens"] > 100
    told = "dropped were 1 as duplicate, 1 for an error, 1 as unreadable"
    assert found.bodies("log")[-1].text == f"ends with 4 of 7: the seeds are used up, {told}"
    assert [body.name for body in found.bodies("phase")] == ["launching", "active"]
    assert {body.unit for body in found.bodies("progress")} == {"steps", "tensors", "examples"}


def test_prompts_are_said_anew_and_their_answers_kept(model: Path, tmp_path: Path) -> None:
    seeds = write_seeds(tmp_path / "seeds", [chat(ANCHOR, "It holds.")])
    spec = write_spec(tmp_path, model=model, seeds=seeds, strategy="paraphrase", num_examples=1, **GREEDY)
    assert attempt(spec).code == 0
    assert [contents(row) for row in rows_of(tmp_path)] == [[ANEW, "It holds."]]
    assert rows_of(tmp_path)[0]["seed_row"] == 0


def test_prompts_are_made_up_answered_and_unlike_each_other(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "LEAST_TRIES", 40)
    seeds = write_seeds(tmp_path / "seeds", [chat(ANCHOR, "It holds.")])
    spec = write_spec(tmp_path, model=model, seeds=seeds, strategy="self_instruct", num_examples=2, **GREEDY)
    found = attempt(spec)
    assert [contents(row) for row in rows_of(tmp_path)] == [[INVENTED, ANSWER]]
    assert (found.result["examples"], found.result["dropped"]["similar"]) == (1, 39)
    assert any(" dropped" in body.note for body in found.bodies("progress")), "it is seen to work"
    assert found.bodies("log")[-1].text == "ends with 1 of 2: 40 tries were made, dropped were 39 as similar"


def test_prompts_of_earlier_attempts_are_known(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "LEAST_TRIES", 40)
    seeds = write_seeds(tmp_path / "seeds", [chat(ANCHOR, "It holds.")])
    for number in (1, 2):  # as if the second had been killed behind its first shard
        section = {"strategy": "self_instruct", "num_examples": number, **GREEDY}
        found = attempt(write_spec(tmp_path, number, model=model, seeds=seeds, **section))
    assert found.bodies("log")[0].text == "goes on: 1 of 2 examples are in whole shards already"
    assert {reason: count for reason, count in found.result["dropped"].items() if count} == {"similar": 39}


def test_a_profile_is_kept_to_and_checked(model: Path, tmp_path: Path) -> None:
    seeds = write_seeds(tmp_path / "seeds", [chat(COUNT, "old")])
    asked = {"model": model, "seeds": seeds, "strategy": "answer", "num_examples": 1, **GREEDY}
    assert attempt(write_spec(tmp_path / "job", profile="emoji_think", **asked)).code == 0
    assert rows_of(tmp_path / "job")[0]["messages"] == SHAPED
    found = attempt(write_spec(tmp_path / "none", profile="regime3", **asked))
    error = found.error
    assert (found.code, error.code) == (1, "nothing_generated")
    assert "exactly one pair of <<ANS_START>>" in error.message
    assert "check" in error.fix


def test_an_answer_that_was_cut_is_not_kept(model: Path, tmp_path: Path) -> None:
    seeds = write_seeds(tmp_path / "seeds", [chat(COUNT, "old")])
    section: dict[str, Any] = {"strategy": "answer", "num_examples": 1, **GREEDY, "max_tokens": 5, "check": False}
    found = attempt(write_spec(tmp_path, model=model, seeds=seeds, **section))
    error = found.error
    assert "1 as unreadable" in error.message
    assert "Cut at 5 tokens" in error.message
    assert "max_tokens" in error.fix


def test_seeds_must_be_there(model: Path, tmp_path: Path) -> None:
    for seeds, code in ((None, "no_seeds"), (tmp_path / "nowhere", "dataset_missing")):
        found = attempt(write_spec(tmp_path / code, model=model, seeds=seeds, strategy="answer"))
        assert (found.code, found.error.code) == (1, code)


TWO_A_SHARD = "import inference.datagen.shards; inference.datagen.shards.SHARD_ROWS = 2"


def test_a_model_s_job_that_was_killed_goes_on_behind_its_last_shard(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn answers, so that only the same tries with the same numbers can give the same rows."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    seeds = write_seeds(tmp_path / "seeds", [chat(f"{question} {n}", "old") for n in range(40) for question in CHATS])
    section: dict[str, Any] = {"strategy": "answer", "num_examples": 21, "temperature": 1.0, "max_tokens": 120}

    def spec(job: str, number: int) -> Path:
        return write_spec(tmp_path / job, number, model=model, seeds=seeds, **section)

    process = started(spec("killed", 1), before=TWO_A_SHARD)
    third = tmp_path / "killed" / "shards" / "shard-00003.jsonl"
    wait_for("the third shard", lambda: third.exists() or process.poll() is not None)
    process.kill()
    process.communicate()
    assert process.returncode == -9, "it was still at work"
    found, whole = attempt(spec("killed", 2)), attempt(spec("once", 1))
    assert found.bodies("log")[0].text.startswith("goes on: ")
    assert len(rows_of(tmp_path / "once")) == 21
    assert shard_bytes(tmp_path / "killed") == shard_bytes(tmp_path / "once")
    assert found.result["dropped"] == whole.result["dropped"]
    assert len({json.dumps(row["messages"]) for row in rows_of(tmp_path / "once")}) == 21
