"""The verb `validate` as a process: what it accepts, rejects and reports."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from monitoring.events import EXIT_PAUSED, Artefact, Inputs, Log, Phase, Progress, Wish
from tests.tiny import build_tiny_model, write_style_dataset
from tests.training.attempts import Attempt, make_attempt, wait_until
from training.data.rows import read_rows

GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
MEMORY_LIMIT_BYTES = 200 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def make_validation(tmp_path: Path, source: str | bytes | None, model: Path | None = None, **config: Any) -> Attempt:
    """An attempt on a dataset folder with `source` as its file (None: it lies there already)."""
    dataset = tmp_path / "dataset"
    dataset.mkdir(exist_ok=True)
    if source is not None:
        (dataset / "source.jsonl").write_bytes(source.encode() if isinstance(source, str) else source)
    inputs = Inputs(
        dataset=Artefact(id="d", path=str(dataset)), model=Artefact(id="tiny", path=str(model)) if model else None
    )
    number = len(list(tmp_path.glob("attempt-*"))) + 1
    return make_attempt(tmp_path / f"attempt-{number}", "validate", config=config, inputs=inputs, number=number)


def files_of(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "dataset").iterdir()}


def test_good_rows_make_it_ready(tmp_path: Path, model: Path) -> None:
    prompt = json.dumps({"prompt": "Hi", "completion": "Hello", "score": 1})
    attempt = make_validation(tmp_path, GOOD + "\n" + prompt + "\n" + '{"text": "Once"}', model)
    assert attempt.run() == 0
    assert attempt.all(Phase) == [Phase("active")]
    values = attempt.result()
    assert (values["status"], values["accepted"], values["faulty"], values["examples"]) == ("ready", 3, 0, 3)
    rows = read_rows(tmp_path / "dataset" / "rows.jsonl", 0, 10)
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    assert rows == [chat, chat, {"text": "Once"}]
    report = json.loads((tmp_path / "dataset" / "report.json").read_text())
    assert report == values["report"]
    assert report["shapes"] == {"messages": 1, "prompt/completion": 1, "text": 1}
    assert report["roles"] == {"user": 2, "assistant": 2}
    assert report["characters"] == 2 * len("HiHello") + len("Once")
    assert {item["code"] for item in report["warnings"]} == {"mixed_shapes", "dropped_keys"}
    assert report["dropped_keys"] == {"score": 1}


def test_few_faulty_rows_are_skipped_and_said(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, GOOD * 120 + "oops\n" + GOOD * 79)
    assert attempt.run() == 0
    values = attempt.result()
    assert (values["status"], values["accepted"], values["faulty"]) == ("ready", 199, 1)
    assert values["report"]["fault_codes"] == {"bad_json": 1}
    assert [fault["line"] for fault in values["report"]["faults"]] == [121]
    assert len((tmp_path / "dataset" / "rows.jsonl").read_bytes().splitlines()) == 199
    assert any("1 faulty rows skipped" in log.text for log in attempt.all(Log))


def test_too_many_faulty_rows_reject_it(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, GOOD * 300 + "oops\n" * 150)
    assert attempt.run() == 0
    values = attempt.result()
    assert values["status"] == "rejected"
    assert "150 of 450 rows (33.33%)" in values["reason"]
    assert "First at line 301" in values["reason"]
    assert (values["report"]["fault_count"], len(values["report"]["faults"])) == (150, 100)
    assert values["report"]["tokens"] is None
    assert files_of(tmp_path) == {"source.jsonl", "report.json"}


def test_the_fraction_is_a_setting(tmp_path: Path) -> None:
    assert make_validation(tmp_path, GOOD * 300 + "oops\n" * 150, max_fault_fraction=0.5).run() == 0
    assert files_of(tmp_path) == {"source.jsonl", "report.json", "rows.jsonl"}
    stricter = make_validation(tmp_path, None, max_fault_fraction=0.1)
    assert stricter.run() == 0
    assert stricter.result()["status"] == "rejected"
    assert files_of(tmp_path) == {"source.jsonl", "report.json"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "no rows"),
        ("\n\n", "no rows"),
        ("oops\n", "None of the 1 rows"),
        ('[{"text": "x"}]', "one JSON array"),
        (b"\x1f\x8b\x08rest", "gzip"),
    ],
)
def test_what_holds_no_rows_is_rejected(tmp_path: Path, source: str | bytes, words: str) -> None:
    attempt = make_validation(tmp_path, source)
    assert attempt.run() == 0
    assert attempt.result()["status"] == "rejected"
    assert words in attempt.result()["reason"]


def test_doubles_are_counted(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, GOOD + '{"text": "x"}\n' + GOOD * 2)
    assert attempt.run() == 0
    assert attempt.result()["report"]["duplicates"] == 2


def test_tokens_are_those_of_the_rendered_chat(tmp_path: Path, model: Path) -> None:
    (tmp_path / "dataset").mkdir()
    source = write_style_dataset(tmp_path / "dataset" / "source.jsonl", rows=40)
    attempt = make_validation(tmp_path, None, model)
    assert attempt.run() == 0
    tokens = attempt.result()["report"]["tokens"]

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lengths = sorted(
        len(tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"])
        for row in read_rows(source, 0, 40)
    )
    assert (tokens["min"], tokens["max"], tokens["total"]) == (lengths[0], lengths[-1], sum(lengths))
    assert (tokens["p50"], tokens["p95"]) == (lengths[19], lengths[37])
    assert (tokens["sampled"], tokens["sample_rows"], tokens["model"]) == (False, 40, "tiny")
    assert tokens["counted_by"] == "the model's chat template"
    assert sum(item["count"] for item in tokens["histogram"]) == 40


def test_of_a_large_file_a_sample_is_counted_and_said_so(tmp_path: Path, model: Path) -> None:
    source = "".join(json.dumps({"text": f"row {number} " + "sail " * number}) + "\n" for number in range(60))
    attempt = make_validation(tmp_path, source, model, full_token_rows=50, token_sample_rows=20)
    assert attempt.run() == 0
    tokens = attempt.result()["report"]["tokens"]
    assert (tokens["sampled"], tokens["sample_rows"]) == (True, 20)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    exact = sum(len(tokenizer.encode(json.loads(line)["text"])) for line in source.splitlines())
    assert tokens["total"] == pytest.approx(exact, rel=0.1)


def test_without_a_tokenizer_there_are_no_figures_but_a_reason(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, GOOD, tmp_path)
    assert attempt.run() == 0
    assert attempt.result()["report"]["tokens"] is None
    assert attempt.result()["report"]["tokens_reason"] == "The model has no tokenizer.json."


def test_a_folder_without_a_source_is_a_fault(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, None)
    assert attempt.run() == 1
    assert attempt.error().code == "no_source"


def many_small_rows(rows: int) -> bytes:
    return b"".join(b'{"text": "row %d"}\n' % number for number in range(rows))


def test_progress_counts_bytes_at_a_pace(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, many_small_rows(60_000))
    assert attempt.run() == 0
    size = (tmp_path / "dataset" / "source.jsonl").stat().st_size
    progress = attempt.all(Progress)
    assert [item.done for item in progress] == sorted(item.done for item in progress)
    assert {item.total for item in progress} == {size}
    assert progress[-1].done == size
    times = [
        json.loads(line)["time"]
        for line in (attempt.folder / "events.jsonl").read_text().splitlines()
        if '"progress"' in line
    ]
    assert all(later - earlier > 0.24 for earlier, later in pairwise(times[:-1]))


@pytest.mark.parametrize(("wish", "code"), [(Wish.PAUSE, EXIT_PAUSED), (Wish.STOP, 1)])
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, wish: Wish, code: int) -> None:
    attempt = make_validation(tmp_path, many_small_rows(400_000))
    process = attempt.start()
    try:
        wait_until(lambda: attempt.all(Progress), "the first progress")
        assert any(name.startswith(".rows.jsonl.") for name in files_of(tmp_path))
        process.send_signal(wish.signal)
        assert process.wait(20) == code
    finally:
        process.kill()
        process.wait()
    assert files_of(tmp_path) == {"source.jsonl"}


def test_what_a_killed_attempt_left_is_cleared(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, GOOD)
    (tmp_path / "dataset" / ".rows.jsonl.abcd").write_text("half")
    assert attempt.run() == 0
    assert files_of(tmp_path) == {"source.jsonl", "rows.jsonl", "report.json"}


def test_a_large_file_takes_little_memory_and_no_torch(tmp_path: Path, model: Path) -> None:
    row = json.dumps({"prompt": "How long is it?", "completion": "naïve words " * 3000}, ensure_ascii=False) + "\n"
    attempt = make_validation(tmp_path, (row * 3000).encode(), model, token_sample_rows=50)
    code = (
        "import re, sys; from pathlib import Path; from training.data.job import main;"
        "assert main(Path(sys.argv[1])) == 0; assert not {'torch', 'transformers'} & set(sys.modules);"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", code, str(attempt.folder / "spec.json")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "dataset" / "source.jsonl").stat().st_size > 100 << 20
    assert int(output) * 1024 < MEMORY_LIMIT_BYTES
