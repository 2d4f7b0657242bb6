"""Shards: whole or not there, and gone on from behind the last one, wherever a kill came."""

import json
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.datagen import shards as shard_files
from inference.datagen.keeping import Keeper
from inference.datagen.options import GenerationOptions
from inference.datagen.shards import Shards, Tally
from inference.datagen.tries import Drop, End, Outcome, Row
from inference.generate_data import generate_data
from monitoring.attempt import run_attempt
from monitoring.events import EventWriter
from tests.inference.attempts import Attempt
from tests.inference.datagen import ended, rows_of, shard_bytes, started, write_spec
from tests.product import wait_for
from training.data.specs import Message
from training.profiles.plain import PlainProfile
from training.profiles.regime3.profile import Regime3Profile

ROWS_A_SHARD = 3


class Killed(BaseException):
    """The process is no more."""


def row(number: int) -> Row:
    user = Message(role="user", content=f"Say {number}.")
    return Row([user, Message(role="assistant", content=f"“{number}”\n漢字")], number)


def outcomes(ends: list[End], first: int) -> Iterator[Outcome]:
    return (Outcome(number, ends[number], tokens=2) for number in range(first, len(ends)))


def attempt(folder: Path, ends: list[End], wanted: int, kill_at: int | None = None) -> Tally:
    """Keeps outcomes as the verb does. With `kill_at` it dies at that write of a file, which then isn't there."""
    writes = 0

    def dying(path: Path, data: bytes, **_: Any) -> None:
        nonlocal writes
        writes += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        if writes == kill_at:
            (path.parent / f".{path.name}.half").write_bytes(data[: len(data) // 2])
            raise Killed
        path.write_bytes(data)

    with pytest.MonkeyPatch.context() as patch, EventWriter(folder / "events.jsonl") as events:
        patch.setattr(shard_files, "SHARD_ROWS", ROWS_A_SHARD)
        patch.setattr(shard_files, "write_bytes", dying)
        patch.setattr(shard_files, "write_json", lambda path, value: dying(path, json.dumps(value).encode()))
        shards = Shards(folder)
        if shards.count >= wanted or shards.tally.ended:
            return shards.tally
        keeper = Keeper(GenerationOptions(num_examples=wanted), PlainProfile(), None, shards, events)
        return keeper.keep(outcomes(ends, shards.tally.tries))


ENDS = st.lists(st.one_of(st.integers(0, 12).map(row), st.just(Drop("unreadable"))), max_size=25)


@settings(max_examples=60, deadline=None)
@given(ENDS, st.integers(1, 12), st.lists(st.integers(1, 5), max_size=4))
def test_wherever_it_is_killed_the_rows_are_those_of_one_attempt(
    ends: list[End], wanted: int, kills: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        once, often = Path(name) / "once", Path(name) / "often"
        tally = attempt(once, ends, wanted)
        for kill_at in kills:
            try:
                attempt(often, ends, wanted, kill_at)
            except Killed:
                whole = shard_bytes(often) if (often / "shards").exists() else {}
                assert all(data.count(b"\n") <= ROWS_A_SHARD for data in whole.values())
        again = attempt(often, ends, wanted)
        if not tally.tries or not any(isinstance(end, Row) for end in ends):
            assert not (often / "shards").exists()
            return
        assert shard_bytes(often) == shard_bytes(once)
        assert (again.tries, again.dropped, again.generated_tokens) == (
            tally.tries, tally.dropped, tally.generated_tokens,
        )  # fmt: skip


def test_a_shard_that_isn_t_what_was_written_is_made_again_with_all_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[End] = [row(number) for number in range(8)]
    attempt(tmp_path, ends, 8)
    before = shard_bytes(tmp_path)
    assert [data.count(b"\n") for data in before.values()] == [3, 3, 2]
    (tmp_path / "shards" / "shard-00002.jsonl").write_bytes(before["shard-00002.jsonl"][:-4])
    shards = Shards(tmp_path)
    assert ([one.file for one in shards.whole], shards.tally.tries) == (["shard-00001.jsonl"], 3)
    assert list(shard_bytes(tmp_path)) == ["shard-00001.jsonl"]
    attempt(tmp_path, ends, 8)
    assert shard_bytes(tmp_path) == before


def test_a_row_s_line_holds_its_messages_and_the_row_that_it_came_from(tmp_path: Path) -> None:
    attempt(tmp_path, [row(5)], 1)
    assert rows_of(tmp_path) == [
        {
            "messages": [
                {"role": "user", "content": "Say 5."},
                {"role": "assistant", "content": "“5”\n漢字"},
            ],
            "seed_row": 5,
        }
    ]
    assert "漢字".encode() in shard_bytes(tmp_path)["shard-00001.jsonl"], "as it is read, not escaped"


# --- regime3: real processes ------------------------------------------------------------------------------------------


def regime3(job: Path, number: int, **section: Any) -> Path:
    return write_spec(job, number, profile="regime3", strategy="regime3", **section)


def test_regime3_killed_and_begun_again_makes_what_it_makes_at_once(tmp_path: Path) -> None:
    job, once = tmp_path / "killed", tmp_path / "once"
    process = started(regime3(job, 1, num_examples=4_200))
    second = job / "shards" / "shard-00002.jsonl"
    wait_for("the second shard", lambda: second.exists() or process.poll() is not None)
    process.kill()
    process.communicate()
    assert process.returncode == -9, "it was still at work"
    left = [path for path in shard_bytes(job) if not path.startswith(".")]
    assert 2 <= len(left) < 9
    before = second.stat().st_mtime_ns

    spec = regime3(job, 2, num_examples=4_200)
    again = ended(spec, started(spec))
    assert f"goes on: {500 * len(left):,} of 4,200 examples" in again.bodies("log")[0].text
    assert second.stat().st_mtime_ns == before, "a whole shard is never touched again"
    assert again.bodies("progress")[0].done == 500 * len(left)

    assert run_attempt(regime3(once, 1, num_examples=4_200), generate_data) == 0
    assert shard_bytes(job) == shard_bytes(once)
    result = again.result
    assert (result["examples"], len(result["shards"])) == (4_200, 9)
    assert set(result["dropped"].values()) == {0}
    for shard in result["shards"]:
        data = shard_bytes(job)[shard["file"]]
        assert (sha256(data).hexdigest(), data.count(b"\n")) == (shard["sha256"], shard["rows"])


def test_regime3_is_exact_distinct_and_needs_no_torch(tmp_path: Path) -> None:
    spec = regime3(tmp_path, 1, num_examples=600, seed=7)
    loaded = "sorted({'torch', 'transformers'} & set(sys.modules))"
    process = started(spec, before=f"import atexit; atexit.register(lambda: print({loaded}, file=sys.stderr))")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said[-2000:]
    assert said.splitlines()[-1] == "[]"
    rows = rows_of(tmp_path)
    assert len({json.dumps(one["messages"]) for one in rows}) == 600
    profile = Regime3Profile()
    assert [profile.check(one["messages"][1]["content"]) for one in rows] == [[]] * 600
    assert [one["seed_row"] for one in rows] == [None] * 600
    other = regime3(tmp_path / "other", 1, num_examples=600, seed=8)
    assert run_attempt(other, generate_data) == 0
    assert rows_of(tmp_path / "other") != rows
    progress = Attempt(spec.parent, 0).bodies("progress")
    assert {(one.total, one.unit) for one in progress} == {(600, "examples")}
    assert progress[-1].done == 600


def test_every_level_of_regime3_has_its_share(tmp_path: Path) -> None:
    assert run_attempt(regime3(tmp_path, 1, num_examples=10), generate_data) == 0
    answers = [one["messages"][1]["content"] for one in rows_of(tmp_path)]
    assert [answer.count("\n") for answer in answers[0::5]] == [0, 0], "one step"
    assert all(answer.count("\n") >= 1 for answer in answers[1::5]), "two and more"
    assert all(answer.endswith(("true <<ANS_END>>", "false <<ANS_END>>")) for answer in answers[3::5] + answers[4::5])


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    first, second = (regime3(tmp_path, number, num_examples=20) for number in (1, 2))
    assert run_attempt(first, generate_data) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    assert run_attempt(second, generate_data) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == stamps
    assert Attempt(second.parent, 0).result == Attempt(first.parent, 0).result
