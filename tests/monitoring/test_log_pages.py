"""Pages of logs: backwards and onwards, numbers, levels, search, long and unfinished lines, memory."""

import gzip
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring import log_pages
from monitoring.log_pages import Wanted, read_page
from monitoring.log_text import LINE_BYTES, LevelReader, shown
from monitoring.wire import LogLine, LogPage

WORDS = ("INFO all is well", "WARNING the wind turns", "ERROR aground", "    a rope of it", "plain", "", "Ünder sail")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 bytes, so that a small file has many and some of its lines are longer than one."""
    monkeypatch.setattr(log_pages, "BLOCK_BYTES", 64)
    monkeypatch.setattr(log_pages, "COUNTED_BYTES", 50)


def backwards(path: Path, wanted: Wanted, *, by_number: bool) -> Iterator[LogPage]:
    """Pages from the end to the beginning."""
    page = read_page(path, wanted)
    yield page
    while page["start"]:
        number = page["number"] if by_number else None
        page = read_page(path, wanted, before=page["start"], number=number)
        yield page


def onwards(path: Path, wanted: Wanted, *, by_number: bool) -> Iterator[LogPage]:
    """Pages from the beginning to the end of a file whose last line has an end."""
    page = read_page(path, wanted, after=0)
    yield page
    while page["end"] < page["size"]:
        page = read_page(path, wanted, after=page["end"], number=page["end_number"] if by_number else None)
        yield page


def all_lines(path: Path) -> list[tuple[int, str, str]]:
    """(number, level, text) of each line, read in the plainest way."""
    levels = LevelReader()
    texts = [shown(raw) for raw in path.read_bytes().removesuffix(b"\n").split(b"\n")]
    return [(index + 1, levels.read(text), text) for index, text in enumerate(texts)]


def told(lines: list[LogLine]) -> list[tuple[int, str, str]]:
    return [(line["number"], line["level"], line["text"]) for line in lines]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("level", "search"), [("", ""), ("warning", ""), ("error", "a"), ("", "ünder"), ("", "ROPE")])
def test_both_ways_show_each_line_once_and_in_order(
    tmp_path: Path, small_blocks: None, seed: int, level: str, search: str
) -> None:
    chance = random.Random(seed)
    lines = [chance.choice(WORDS) + " x" * chance.choice((0, 1, 5, 200)) * (seed % 3) for _ in range(60)]
    path = tmp_path / "log.txt"
    path.write_text("\n".join(lines) + "\n")
    expected = [
        line for line in all_lines(path)
        if search.casefold() in line[2].casefold() and (not level or line[1] in (level, "error"))
    ]  # fmt: skip
    for size in (1, 7, 1000):
        wanted = Wanted(size, level, search)
        pages = list(backwards(path, wanted, by_number=bool(seed % 2)))
        assert [line for page in reversed(pages) for line in told(page["lines"])] == expected
        pages = list(onwards(path, wanted, by_number=bool(seed % 2)))
        assert [line for page in pages for line in told(page["lines"])] == expected
        assert pages[-1]["end_number"] == 61


def test_an_unfinished_line_is_open_and_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("one\n 10%\r 20%")
    page = read_page(path, Wanted(10))
    assert [(line["text"], line["open"]) for line in page["lines"]] == [("one", False), (" 20%", True)]
    assert (page["end"], page["end_number"]) == (4, 2)
    with path.open("a") as stream:
        stream.write("\r100%\nthree\n")
    page = read_page(path, Wanted(10), after=page["end"], number=page["end_number"])
    assert told(page["lines"]) == [(2, "info", "100%"), (3, "info", "three")]
    assert page["end"] == page["size"]


def test_what_a_writer_left_unfinished_is_whole_once_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("one\nSegmentation fault")
    page = read_page(path, Wanted(10), ended=True)
    assert [line["open"] for line in page["lines"]] == [False, False]
    assert (page["end"], page["end_number"], page["ended"]) == (22, 3, True)


def test_a_line_of_a_megabyte_is_cut_with_its_rest_told(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"before\n" + b"x" * 5_000_000 + b"needle\n" + b"behind\n")
    page = read_page(path, Wanted(10))
    assert [line["number"] for line in page["lines"]] == [1, 2, 3]
    line = page["lines"][1]
    assert (len(line["text"]), line["cut_bytes"]) == (LINE_BYTES, 5_000_006 - LINE_BYTES)
    found = read_page(path, Wanted(10, search="NEEDLE"))["lines"]
    assert [(line["number"], line["start"]) for line in found] == [(2, 7)]
    assert read_page(path, Wanted(10, search="needles"))["lines"] == []


def test_many_long_lines_make_a_page_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes((b"y" * 50_000 + b"\n") * 200)
    page = read_page(path, Wanted(1000))
    assert 60 < len(page["lines"]) < 70
    assert page["lines"][0]["number"] == 201 - len(page["lines"])
    onward = read_page(path, Wanted(1000), after=0)
    assert onward["end_number"] == len(onward["lines"]) + 1


def test_a_hundred_megabytes_are_read_and_searched_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    block = b"".join(b"2026-11-30 16:00:00 INFO step %05d of the voyage\n" % number for number in range(20_000))
    with path.open("wb") as stream:
        for number in range(105):
            stream.write(block)
            stream.write(b"2026-11-30 16:00:00 %s leak number %d\n" % (b"ERROR" if number == 50 else b"INFO", number))
    assert path.stat().st_size > 100_000_000
    tracemalloc.start()
    try:
        tail = read_page(path, Wanted(500))
        found = read_page(path, Wanted(500, search="leak NUMBER"))
        grave = read_page(path, Wanted(500, level="error"))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 30_000_000
    assert tail["end_number"] == 105 * 20_001 + 1
    assert [line["number"] for line in found["lines"]] == [20_001 * number for number in range(1, 106)]
    assert found["start"] == 0
    assert told(grave["lines"]) == [(20_001 * 51, "error", "2026-11-30 16:00:00 ERROR leak number 50")]


def test_a_search_that_takes_too_long_says_how_far_it_came(tmp_path: Path, small_blocks: None) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    page = read_page(path, Wanted(5, search="line 3", deadline=0.0))
    assert page["start"] > 0
    gone_on = [page]
    while gone_on[-1]["start"]:
        last = gone_on[-1]
        gone_on.append(read_page(path, Wanted(5, search="line 3", deadline=0.0), before=last["start"]))
    found = [line["number"] for page in reversed(gone_on) for line in page["lines"]]
    assert found == [number + 1 for number in range(1000) if str(number).startswith("3")]


@pytest.mark.parametrize("onward", [False, True])
def test_a_search_found_in_every_second_line_looks_at_each_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onward: bool
) -> None:
    path = tmp_path / "log.txt"
    path.write_text("step of the voyage\nthe needle\n" * 10_000)
    looked_at = 0

    def counting(line: bytes) -> str:
        nonlocal looked_at
        looked_at += len(line) + 1
        return shown(line)

    monkeypatch.setattr(log_pages, "shown", counting)
    page = read_page(path, Wanted(1000, search="needle"), after=0 if onward else None)
    assert len(page["lines"]) == 1000
    assert looked_at < 2 * path.stat().st_size


def test_a_compressed_log_reads_as_the_plain_one(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "log.txt.gz", "wt") as stream:
        stream.write("one\ntwo\nthree\n")
    page = read_page(tmp_path / "log.txt", Wanted(2), ended=True)
    assert told(page["lines"]) == [(2, "info", "two"), (3, "info", "three")]
    assert (page["start"], page["size"]) == (4, 14)
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.txt.gz"]


def test_no_log_is_an_empty_page(tmp_path: Path) -> None:
    assert read_page(tmp_path / "log.txt", Wanted(5)) == {
        "lines": [], "start": 0, "end": 0, "size": 0, "number": 1, "end_number": 1, "ended": False,
    }  # fmt: skip


def test_offsets_beyond_or_within_lines_are_taken_to_a_line_start(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("one\ntwo\nthree\n")
    assert told(read_page(path, Wanted(5), before=6)["lines"]) == [(1, "info", "one")]
    assert told(read_page(path, Wanted(5), after=6)["lines"])[0] == (2, "info", "two")
    assert told(read_page(path, Wanted(1), before=10**9)["lines"]) == [(3, "info", "three")]
    assert read_page(path, Wanted(5), after=10**9)["lines"] == []


def test_colours_and_titles_are_taken_out() -> None:
    assert shown(b"\x1b[1;31mERROR\x1b[0m a\x1b]0;title\x07b \x1b[2K\rlast\x1b(") == "last("
    assert shown(b"\x1b[38;5;196mred\x1b[0m <b>bold</b>") == "red <b>bold</b>"


def test_levels_of_the_usual_loggers() -> None:
    text = """\
plain before
2026-11-30 16:00:00,123 WARNING name: a reef
    which is indented
INFO:     127.0.0.1 asked
[ERROR] aground
(EngineCore pid=7) DEBUG 11-30 tiny
Traceback (most recent call last):
  File "x.py", line 1
training.faults.Aground: no water
nothing special
/a/b.py:12: UserWarning: an old chart
ValueError: not a knot
"""
    levels = LevelReader()
    assert [levels.read(line) for line in text.splitlines()] == [
        "info", "warning", "warning", "info", "error", "debug", "error", "error", "error", "info", "warning", "error",
    ]  # fmt: skip
