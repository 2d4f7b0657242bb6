"""The level QUICK, and what STANDARD says of lengths and roles."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from training.data.lengths import Lengths
from training.data.sampling import quick_report
from training.data.sources import opened, recognise
from training.data.unpacking import Limits
from training.data.validation import Findings, choose_spec, validate

TEXT = {"text": "Once upon a time there was a harbour."}


def quick(path: Path, **limits: int) -> dict[str, Any]:
    bounds = Limits(**limits)
    return quick_report(recognise(path, "chats.jsonl", bounds), bounds, 0.01)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def findings_of(path: Path) -> Findings:
    source = recognise(path, path.name, Limits())
    with opened(source, Limits()) as reader:
        spec = choose_spec(reader)
    with opened(source, Limits()) as reader, (path.parent / "rows.jsonl").open("wb") as rows:
        return validate(reader, spec, rows, lambda done: None, Limits())


def test_a_good_file_passes_and_names_its_spec(tmp_path: Path) -> None:
    report = quick(write(tmp_path / "a", [TEXT] * 20))
    assert (report["passed"], report["reason"], report["spec"], report["rows"]) == (True, "", "completion_v1", 20)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_bad_file_is_named_by_line(tmp_path: Path) -> None:
    report = quick(write(tmp_path / "a", [TEXT] * 5 + ["oops"] * 5))
    assert not report["passed"]
    assert "5 of 10 rows (50.00%) of chats.jsonl are faulty" in report["reason"]
    assert "First at line 6: Not JSON" in report["reason"]


def test_a_large_file_is_looked_at_all_over_within_a_second(tmp_path: Path) -> None:
    """The rows at fault lie far behind what its beginning shows, and a byte leads to the first of them."""
    path = tmp_path / "large.jsonl"
    good, bad = json.dumps({"text": "word " * 100}) + "\n", '{"text": 4}\n' * 50
    with path.open("w") as stream:
        for _ in range(100):
            stream.write(good * 2000)
        where = stream.tell()
        stream.write(bad * 20_000)
    began = time.perf_counter()
    report = quick(path)
    assert time.perf_counter() - began < 1
    assert (report["place"], report["passed"]) == ("byte", False)
    first = report["faults"][0]
    with path.open("rb") as stream:
        stream.seek(first["line"] - 1)
        assert stream.readline() == b'{"text": 4}\n'
    assert first["line"] - 1 >= where
    assert report["rows"] == pytest.approx(500, abs=2)


def test_rows_far_longer_than_the_others_are_named(tmp_path: Path) -> None:
    rows = [{"text": "word " * (20 + number % 10)} for number in range(60)]
    rows[41] = {"text": "word " * 4000}
    findings = findings_of(write(tmp_path / "a", rows))
    assert findings.outliers is not None
    assert findings.outliers["rows"] == [{"line": 42, "characters": 20_000}]
    assert findings.warnings["length_outliers"] == 1


def test_rows_of_like_length_have_no_outliers() -> None:
    lengths = Lengths()
    for number in range(100):
        lengths.note(number, 100 if number % 10 else 130)  # the quartiles coincide, and 130 is no outlier for that
    outliers = lengths.outliers()
    assert outliers is not None
    assert (outliers["count"], outliers["rows"], outliers["fence_characters"]) == (0, [], 200)


def test_of_few_rows_nothing_is_said_about_length() -> None:
    lengths = Lengths()
    lengths.note(1, 10_000)
    assert lengths.outliers() is None


def test_the_balance_of_roles_is_counted_and_warned_about(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x" * 990}, {"role": "assistant", "content": "y" * 10}]
    system = {"role": "system", "content": "z" * 100}
    findings = findings_of(write(tmp_path / "a", [{"messages": turns}, {"messages": [system, *turns]}]))
    assert findings.role_characters == {"user": 1980, "assistant": 20, "system": 100}
    assert findings.to_report()["role_characters"]["assistant"] == 20
    assert (findings.warnings["few_answers"], findings.warnings["some_system"]) == (2, 1)
