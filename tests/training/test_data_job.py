"""The verb `validate` as a process: what it accepts, rejects and reports."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from monitoring.attempt import JobPausedError
from monitoring.events import EXIT_PAUSED, Artefact, Inputs, Log, Phase, Progress, Wish
from tests.tiny import build_tiny_model, write_style_dataset
from tests.training.attempts import Attempt, make_attempt, wait_until
from training.data.rows import read_rows
from training.interruption import interruptible

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
    alpaca = json.dumps({"instruction": "Hi", "output": "Hello", "score": 1})
    attempt = make_validation(tmp_path, GOOD + "\n" + alpaca + "\n" + GOOD, model)
    assert attempt.run() == 0
    assert attempt.all(Phase) == [Phase("active")]
    values = attempt.result()
    assert (values["status"], values["accepted"], values["faulty"], values["examples"]) == ("ready", 3, 0, 3)
    rows = read_rows(tmp_path / "dataset" / "rows.jsonl", 0, 10)
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    assert rows == [chat, chat, chat]
    report = json.loads((tmp_path / "dataset" / "report.json").read_text())
    assert report == values["report"]
    assert report["shapes"] == {"messages": 2, "instruction/output": 1}
    assert (report["spec"], report["place"]) == ("chat_sft_v1", "line")
    assert report["source"]["format"] == "jsonl"
    assert report["roles"] == {"user": 3, "assistant": 3}
    assert report["characters"] == 3 * len("HiHello")
    assert {item["code"] for item in report["warnings"]} == {"mixed_shapes", "dropped_keys", "duplicate_rows"}
    assert report["dropped_keys"] == {"score": 1}


def test_the_lineage_is_what_was_said_and_what_became_of_it(tmp_path: Path) -> None:
    said = {"generator": "writer", "generator_version": "1.2", "parents": [{"id": 1, "name": "a"}]}
    attempt = make_validation(tmp_path, GOOD * 200 + "oops\n", lineage=said)
    assert attempt.run() == 0
    record = json.loads((tmp_path / "dataset" / "lineage.json").read_text())
    assert record.items() >= {**said, "rows_accepted": 200, "rows_rejected": 1, "spec": "chat_sft_v1"}.items()


def test_quick_looks_and_writes_nothing(tmp_path: Path) -> None:
    good = make_validation(tmp_path, GOOD * 30, level="quick", filename="chats.jsonl")
    assert good.run() == 0
    assert good.result()["level"] == "quick"
    assert good.result()["report"]["passed"] is True
    bad = make_validation(tmp_path, b"PK\x03\x04", level="quick", filename="chats.jsonl")
    assert bad.run() == 0
    assert bad.result()["report"]["passed"] is False
    assert bad.result()["report"]["reason"].startswith("chats.jsonl is a zip archive.")
    assert files_of(tmp_path) == {"source.jsonl"}


def test_deep_reads_the_accepted_rows(tmp_path: Path) -> None:
    missing = make_validation(tmp_path, GOOD * 3, level="deep", examples=3)
    assert missing.run() == 1
    assert missing.error().code == "no_rows"
    assert make_validation(tmp_path, None).run() == 0
    unknown = make_validation(tmp_path, None, level="deep", examples=3, profile="nobody's")
    assert unknown.run() == 1
    assert 'There is no profile "nobody\'s"' in unknown.error().message
    folder = str(tmp_path / "dataset")
    attempt = make_validation(tmp_path, None, level="deep", examples=3, profile="plain", eval_folder=folder)
    assert peak_bytes(attempt) < 2 * MEMORY_LIMIT_BYTES
    report = attempt.result()["report"]
    assert (report["near_duplicates"]["count"], report["evaluation"]["count"]) == (2, 3)
    assert report["profile"]["name"] == "plain"


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
    assert files_of(tmp_path) == {"source.jsonl", "report.json", "lineage.json"}


def test_the_fraction_is_a_setting(tmp_path: Path) -> None:
    assert make_validation(tmp_path, GOOD * 300 + "oops\n" * 150, max_fault_fraction=0.5).run() == 0
    assert files_of(tmp_path) == {"source.jsonl", "report.json", "lineage.json", "rows.jsonl"}
    stricter = make_validation(tmp_path, None, max_fault_fraction=0.1)
    assert stricter.run() == 0
    assert stricter.result()["status"] == "rejected"
    assert files_of(tmp_path) == {"source.jsonl", "report.json", "lineage.json"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "chats.jsonl is empty: it holds no rows. Give a file"),
        ("\n\n", "chats.jsonl is empty: it holds no rows. Give a file"),
        ("oops\n", "None of the 1 rows of chats.jsonl can be used. First at line 1: Not JSON"),
        (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 9, "chats.jsonl is a gzip file that is damaged"),
        (
            '[{"text": "x"}, {"text": "y"',
            "chats.jsonl is a JSON array that can't be read beyond element 1: parse error",
        ),
        ('{"question": "Hi", "answer": "You"}', "First at line 1: Nearest is"),
        ('{"messages": [{"content": "Hi"}]}', "First at line 1: Message 1 of `messages` has no role. Give it one of"),
        ('{"messages": [{"role": "system", "content": "Hi"}]}', "First at line 1: Only a system message is there. Add"),
        (b'{"text": "x"}\n{"text": "caf\xe9"}', "First at line 2: Byte 14 of the line (0xe9) is not UTF-8. Save"),
        (
            GOOD * 5 + '{"text": "x"}\n' * 3,
            "First at line 6: The row is completion_v1 (text), but the file is chat_sft_v1",
        ),
        (
            json.dumps({"text": "to " * 2_000_000}),
            "First at line 1: The example has 6,000,000 characters, about 1,500,000",
        ),
    ],
)
def test_a_bad_file_is_rejected_with_a_sentence_and_leaves_no_rows(
    tmp_path: Path, source: str | bytes, words: str
) -> None:
    attempt = make_validation(tmp_path, source, filename="chats.jsonl")
    assert attempt.run() == 0
    assert attempt.result()["status"] == "rejected"
    assert words in attempt.result()["reason"]
    assert files_of(tmp_path) == {"source.jsonl", "report.json", "lineage.json"}


def test_a_line_of_200_megabytes_is_a_fault_and_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    with (tmp_path / "dataset" / "source.jsonl").open("wb") as stream:
        stream.write(b'{"text": "')
        for _ in range(200):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n')
    attempt = make_validation(tmp_path, None)
    assert peak_bytes(attempt) < MEMORY_LIMIT_BYTES
    assert attempt.result()["reason"].startswith(
        "None of the 1 rows of source.jsonl can be used. First at line 1: The line is longer than 16,777,216 bytes."
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_table_is_read_in_bounded_memory(tmp_path: Path, packed: bool) -> None:
    texts = [f"{number} " + "never the same " * 600 + str(number) for number in range(8000)]
    (tmp_path / "dataset").mkdir()
    path = tmp_path / "dataset" / "source.parquet"
    pq.write_table(pa.table({"text": texts}), path, compression="none")
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    attempt = make_validation(tmp_path, None)
    assert peak_bytes(attempt) < 2 * MEMORY_LIMIT_BYTES
    values = attempt.result()
    assert (values["status"], values["examples"]) == ("ready", 8000), values["reason"]
    assert values["report"]["source"]["format"] == ("parquet.gz" if packed else "parquet")
    assert files_of(tmp_path) == {"source.parquet", "report.json", "lineage.json", "rows.jsonl"}


def test_rows_that_become_too_much_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    table = pa.table({"text": pa.array(["the same long text " * 5000] * 4000).dictionary_encode()})
    pq.write_table(table, tmp_path / "dataset" / "source.parquet")
    attempt = make_validation(tmp_path, None, max_unpacked_bytes=20 << 20)
    assert attempt.run() == 0
    assert attempt.result()["reason"].startswith("The rows come to more than 20,971,520 bytes. Split the file")
    assert files_of(tmp_path) == {"source.parquet", "report.json", "lineage.json"}


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


def test_a_signal_that_another_thread_got_ends_what_the_main_thread_waits_for(tmp_path: Path) -> None:
    pipe, main = tmp_path / "source.jsonl", threading.get_native_id()
    os.mkfifo(pipe)
    ended, in_vain = threading.Event(), threading.Event()

    def signalled() -> None:
        with contextlib.suppress(AssertionError):  # some kernels don't tell; it waits in any case soon
            wchan = Path(f"/proc/self/task/{main}/wchan")
            wait_until(lambda: wchan.read_text() == "wait_for_partner", "the pipe to be opened", 1.0)
        signal.pthread_kill(threading.get_ident(), Wish.PAUSE.signal)  # as the kernel may choose at power-off
        if not ended.wait(5.0):
            in_vain.set()
            pipe.open("wb").close()

    other = threading.Thread(target=signalled)
    other.start()
    with pytest.raises(JobPausedError), interruptible():
        pipe.open("rb").close()  # nobody writes into it, unless the signal was in vain
    ended.set()
    other.join()
    assert not in_vain.is_set()


def test_what_a_killed_attempt_left_is_cleared(tmp_path: Path) -> None:
    attempt = make_validation(tmp_path, GOOD)
    (tmp_path / "dataset" / ".rows.jsonl.abcd").write_text("half")
    assert attempt.run() == 0
    assert files_of(tmp_path) == {"source.jsonl", "rows.jsonl", "report.json", "lineage.json"}


def test_a_large_file_takes_little_memory_and_no_torch(tmp_path: Path, model: Path) -> None:
    row = json.dumps({"prompt": "How long is it?", "completion": "naïve words " * 3000}, ensure_ascii=False) + "\n"
    attempt = make_validation(tmp_path, (row * 3000).encode(), model, token_sample_rows=50)
    assert peak_bytes(attempt) < MEMORY_LIMIT_BYTES
    assert (tmp_path / "dataset" / "source.jsonl").stat().st_size > 100 << 20


def peak_bytes(attempt: Attempt) -> int:
    """Runs the attempt in a process of its own; what that held at most. It must load neither torch nor transformers."""
    code = (
        "import re, sys; from pathlib import Path; from training.data.job import main;"
        "assert main(Path(sys.argv[1])) == 0; assert not {'torch', 'transformers'} & set(sys.modules);"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", code, str(attempt.folder / "spec.json")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(output.splitlines()[-1]) * 1024
