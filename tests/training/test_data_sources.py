"""Every kind of file that a dataset may be, whole and damaged, read in this process."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data.records import Record, UnreadableSourceError
from training.data.sources import opened, recognise
from training.data.specs import RowFaultError
from training.data.unpacking import RATIO_FROM_BYTES, Limits

CHAT = [{"role": "user", "content": "Hi, you"}, {"role": "assistant", "content": 'He said "hello"\nand left.'}]
ROWS = [
    {"prompt": "How many?", "completion": "Two; or\nthree, “maybe”."},
    {"prompt": "Why?", "completion": "Because."},
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def json_array(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def delimited(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows({key: v if isinstance(v, str) else json.dumps(v) for key, v in row.items()} for row in rows)
    return text.getvalue().encode()


def tabbed(rows: list[dict[str, Any]]) -> bytes:
    return delimited(rows, "\t")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": jsonl, "json": json_array, "csv": delimited, "tsv": tabbed, "parquet": parquet,
}  # fmt: skip


def read(tmp_path: Path, data: bytes, name: str = "data.bin", *, limit: int = 1 << 20, **limits: int) -> list[Record]:
    """All records of a file with these bytes. Raises UnreadableSourceError."""
    path = tmp_path / "source.bin"
    path.write_bytes(data)
    bounds = Limits(**limits)
    with opened(recognise(path, name, bounds), bounds, limit) as reader:
        records = list(reader.records())
        assert reader.position() == len(data)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source.bin"]
    return records


def examples(records: list[Record]) -> list[Any]:
    """What can be trained on, or the code of the fault."""
    return [item.row.code if isinstance(item.row, RowFaultError) else item.row.example for item in records]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str, packed: bool) -> None:
    data = FORMATS[kind](ROWS)
    records = read(tmp_path, gzip.compress(data) if packed else data)
    chats = [
        {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"]}]}
        for r in ROWS
    ]
    assert examples(records) == chats


@pytest.mark.parametrize("kind", FORMATS)
def test_conversations_come_from_every_format(tmp_path: Path, kind: str) -> None:
    assert examples(read(tmp_path, FORMATS[kind]([{"messages": CHAT, "id": 7}]))) == [{"messages": CHAT}]


@pytest.mark.parametrize("kind", FORMATS)
def test_alpaca_columns_and_raw_text(tmp_path: Path, kind: str) -> None:
    rows = [
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Greet", "input": "", "output": "Hi"},
    ]
    first, second = examples(read(tmp_path, FORMATS[kind](rows)))
    assert first["messages"][0]["content"] == "Add\n\n1 2"
    assert second["messages"][0]["content"] == "Greet"
    assert examples(read(tmp_path, FORMATS[kind]([{"text": "Once"}]))) == [{"text": "Once"}]


@pytest.mark.parametrize(
    ("data", "name", "format_name"),
    [
        (jsonl(ROWS), "data.csv.gz", "jsonl"),
        (gzip.compress(parquet(ROWS)), "data.json", "parquet.gz"),
        (delimited(ROWS), "data.txt", "csv"),
        (b"\xef\xbb\xbf" + json_array(ROWS), "data", "json"),
        (b"one, two\n", "data.txt", "jsonl"),
        (b"one, two\n", "data.CSV", "csv"),
    ],
)
def test_the_bytes_decide_and_not_the_name(tmp_path: Path, data: bytes, name: str, format_name: str) -> None:
    path = tmp_path / "source"
    path.write_bytes(data)
    assert recognise(path, name, Limits()).format_name == format_name


@pytest.mark.parametrize("kind", ["json", "csv", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, kind: str) -> None:
    assert len(examples(read(tmp_path, b"\xef\xbb\xbf" + FORMATS[kind](ROWS)))) == 2


def test_a_fault_stands_where_its_record_begins(tmp_path: Path) -> None:
    data = b'text\n"two\nlines"\n"one"x\n\nfine\na,b\n\xff\nlast\n'
    records = read(tmp_path, data)
    assert [record.number for record in records] == [2, 4, 6, 7, 8, 9]
    assert examples(records) == [
        {"text": "two\nlines"}, "bad_cells", {"text": "fine"}, "bad_cells", "invalid_utf8", {"text": "last"},
    ]  # fmt: skip


def test_a_record_of_many_lines_is_bounded(tmp_path: Path) -> None:
    data = b'text\n"never closed\n' + b"word\n" * 1000
    records = read(tmp_path, data, limit=1000)
    assert examples(records)[0] == "line_too_long"
    long_line = read(tmp_path, b"text\n" + b"x" * 5000 + b"\nshort\n", limit=1000)
    assert examples(long_line) == ["line_too_long", {"text": "short"}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_an_example_of_two_million_tokens_is_a_fault(tmp_path: Path, kind: str) -> None:
    rows = [{"text": "a b " * 1_000_000}, {"text": "short"}]
    records = read(tmp_path, FORMATS[kind](rows), limit=16 << 20)
    assert examples(records) == ["example_too_long", {"text": "short"}]
    fault = records[0].row
    assert isinstance(fault, RowFaultError)
    assert "4,000,000 characters, about 1,000,000 tokens" in fault.message


def bomb(size: int) -> bytes:
    """A gzip file that unpacks to `size` bytes of one line."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b"0" * (1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"x\.csv is empty"),
    "blank": (b" \n\n", r"x\.csv is empty"),
    "empty gzip": (gzip.compress(b""), r"x\.csv is empty"),
    "cut gzip": (cut(gzip.compress(jsonl(ROWS * 1000))), r"x\.csv is a gzip file that breaks off"),
    "damaged gzip": (gzip.compress(jsonl(ROWS))[:-8] + b"12345678", r"x\.csv is a gzip file that is damaged: CRC"),
    "no gzip": (b"\x1f\x8brest" * 9, r"x\.csv is a gzip file that is damaged"),
    "gzip in gzip": (gzip.compress(gzip.compress(jsonl(ROWS))), r"x\.csv is a gzip file inside another one"),
    "bomb": (bomb(RATIO_FROM_BYTES + (2 << 20)), r"x\.csv unpacks to more than 200 times its size"),
    "zip": (b"PK\x03\x04rest", r"x\.csv is a zip archive\. Give JSON lines"),
    "utf-16": ('{"text": "x"}\n'.encode("utf-16"), r"x\.csv is text in UTF-16"),
    "cut array": (cut(json_array(ROWS)), r"x\.csv is a JSON array that can't be read beyond element \d: parse error"),
    "array of invalid UTF-8": (b'[{"text": "caf\xe9 au lait"}]', r"beyond element 0: lexical error: invalid bytes in"),
    "more after the array": (json_array(ROWS) + b"x", r"beyond element 2: parse error: trailing garbage"),
    "deep array": (b"[" * 100_000, r"Element 1 of x\.csv nests more than 64 levels"),
    "long element": (b'[{"text": "x"}, {"text": "' + b"x" * (2 << 20) + b'"}]', r"Element 2 of x\.csv is longer than"),
    "no known column": (b"question,answer\nHi,Hello\n", r"x\.csv names no columns that can be trained on\. Nearest"),
    "column twice": (b"text,text\nHi,Hello\n", r"x\.csv names the column text twice"),
    "header not UTF-8": (b"text,caf\xe9\nHi,Hello\n", r"The header in line 1 of x\.csv can't be read"),
    "cut Parquet": (cut(parquet(ROWS)), r"x\.csv is a Parquet table that can't be read beyond row 0"),
    "damaged Parquet": (
        parquet(ROWS * 500).replace(b"Because", b"B\xff\xff\xffuse").replace(b"PAR1", b"PAR1" + b"\x00" * 40, 1),
        r"x\.csv is a Parquet table that can't be read",
    ),
    "Parquet of other columns": (
        parquet([{"question": "Hi", "completion": "x"}]),
        r"x\.csv has no columns that can be trained on\. Nearest is completion_v1 \(.*\): `prompt` is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, kind: str) -> None:
    data, pattern = UNREADABLE[kind]
    with pytest.raises(UnreadableSourceError) as fault:
        read(tmp_path, data, "x.csv")
    message = str(fault.value)
    assert re.search(pattern, message), message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_may_unpack_to_the_limit_alone(tmp_path: Path, kind: str) -> None:
    data = FORMATS[kind]([{"text": f"number {number} of many"} for number in range(2000)])
    assert len(read(tmp_path, gzip.compress(data), most_bytes=1 << 20)) == 2000
    with pytest.raises(UnreadableSourceError, match=r"unpacks to more than 5,000 bytes.*datasets\.max_unpacked_bytes"):
        read(tmp_path, gzip.compress(data), most_bytes=5000)


def test_half_of_a_surrogate_pair_in_a_table_is_a_fault(tmp_path: Path) -> None:
    cell = json.dumps(CHAT).replace("Hi", "\\ud83d").replace('"', '""')
    assert examples(read(tmp_path, f'messages\n"{cell}"\n'.encode())) == ["invalid_utf8"]


def test_a_parquet_cell_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    texts = pa.array([b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts}), sink)
    records = read(tmp_path, sink.getvalue().to_pybytes())
    assert examples(records) == ["invalid_utf8", {"text": "fine"}]
