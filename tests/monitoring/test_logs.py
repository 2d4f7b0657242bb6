"""Log slices: ends of large files, following, torn lines and progress bars."""

from pathlib import Path

import pytest

from monitoring.logs import read_from, read_tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 100,000 numbered lines (1.1 MB)."""
    path = tmp_path / "log.txt"
    path.write_text("".join(f"line {number:05d}\n" for number in range(100_000)))
    return path


def test_the_tail_of_a_large_log(log: Path) -> None:
    tail = read_tail(log, 3)
    assert tail["lines"] == ["line 99997", "line 99998", "line 99999"]
    assert (tail["start"], tail["end"], tail["size"]) == (99_997 * 11, 1_100_000, 1_100_000)


@pytest.mark.parametrize("wanted", [1, 2, 4999, 5000])
def test_the_tail_has_as_many_lines_as_were_asked(log: Path, wanted: int) -> None:
    lines = read_tail(log, wanted)["lines"]
    assert lines == [f"line {number:05d}" for number in range(100_000 - wanted, 100_000)]


def test_the_tail_starts_with_a_whole_line_when_bytes_run_out(log: Path) -> None:
    tail = read_tail(log, 100, limit_bytes=40)
    assert tail["lines"] == ["line 99997", "line 99998", "line 99999"]
    assert tail["start"] == 99_997 * 11


def test_a_short_or_missing_log(tmp_path: Path) -> None:
    path = tmp_path / "short"
    assert read_tail(path, 5) == {"lines": [], "start": 0, "end": 0, "size": 0}
    path.write_text("")
    assert read_tail(path, 5)["lines"] == []
    path.write_text("one\n\nunfinished")
    assert read_tail(path, 5)["lines"] == ["one", "", "unfinished"]
    assert read_tail(path, 2)["lines"] == ["", "unfinished"]


def test_following_reads_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthr")
    first = read_from(path, 0)
    assert (first["lines"], first["end"]) == (["one", "two"], 8)
    with path.open("a") as stream:
        stream.write("ee\n")
    second = read_from(path, first["end"])
    assert (second["lines"], second["start"], second["end"]) == (["three"], 8, 14)
    assert read_from(path, 14)["lines"] == []


def test_an_unfinished_last_line_comes_when_its_writer_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\nSegmentation")
    assert read_from(path, 0, ended=True)["lines"] == ["one", "Segmentation"]
    assert read_from(path, 0, 6, ended=True)["lines"] == ["one"]


def test_a_line_longer_than_the_limit_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x" * 25 + "\nend\n")
    pieces, offset = [], 0
    while offset < 30:
        piece = read_from(path, offset, 10)
        assert piece["end"] > offset
        pieces += piece["lines"]
        offset = piece["end"]
    assert "".join(pieces) == "x" * 25 + "end"


def test_of_a_progress_bar_the_last_drawing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b" 0%\r50%\r100%\r\nd\xffne\n")
    assert read_tail(path, 5)["lines"] == ["100%", "d\ufffdne"]
