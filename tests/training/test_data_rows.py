"""Reading a dataset line by line."""

from io import BytesIO
from pathlib import Path

import pytest

from training.data.rows import UnreadableRowsError, iter_lines, read_rows


def numbered(path: Path, rows: int) -> Path:
    path.write_text("".join(f'{{"text": "row {number}"}}\n' for number in range(rows)))
    return path


def test_lines_keep_their_numbers_over_blank_ones() -> None:
    lines = list(iter_lines(BytesIO(b"\xef\xbb\xbf1\r\n\n  \n2\n3")))
    assert [(line.number, line.data, line.end) for line in lines] == [(1, b"1", 6), (4, b"2", 12), (5, b"3", 13)]


def test_a_line_beyond_the_limit_is_passed_over() -> None:
    lines = list(iter_lines(BytesIO(b"1\n" + b"x" * 1000 + b"\n2\n" + b"y" * 1000), limit_bytes=8))
    assert [(line.number, line.data) for line in lines] == [(1, b"1"), (2, None), (3, b"2"), (4, None)]
    assert lines[-1].end == 2 + 1001 + 2 + 1000


def test_a_line_of_just_the_limit_is_read() -> None:
    assert [line.data for line in iter_lines(BytesIO(b"12345678\n12345678"), limit_bytes=8)] == [b"12345678"] * 2


def test_a_page_of_rows(tmp_path: Path) -> None:
    path = numbered(tmp_path / "rows.jsonl", 10)
    assert read_rows(path, 7, 2) == [{"text": "row 7"}, {"text": "row 8"}]
    assert read_rows(path, 9, 5) == [{"text": "row 9"}]
    assert read_rows(path, 10, 5) == []
    assert read_rows(path, 0, 0) == []


def test_a_page_reads_no_further_than_it_must(tmp_path: Path) -> None:
    path = numbered(tmp_path / "rows.jsonl", 10)
    with path.open("ab") as stream:
        stream.truncate(50 << 30)  # a hole of 50 GiB, which nobody reads within the test's time
    assert read_rows(path, 8, 2) == [{"text": "row 8"}, {"text": "row 9"}]


@pytest.mark.parametrize("line", ["{broken", "[1]"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "x"}}\n{line}\n')
    with pytest.raises(UnreadableRowsError, match=r"Line 2 of rows\.jsonl"):
        read_rows(path, 0, 2)
