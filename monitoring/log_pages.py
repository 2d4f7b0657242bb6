"""Pages of a log file by byte offsets, from its end backwards or onwards, with a search over all of it.

Runs in the agent; standard library only. However large the file or one of its lines is, a block of it is in memory.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from monitoring.log_text import (
    GRAVE,
    LINE_BYTES,
    MAX_LINES,
    LevelReader,
    is_at_least,
    own_level,
    shown,
    shown_cut,
)
from monitoring.logs import packed_path
from monitoring.unpacked_logs import UnpackedLogs
from monitoring.wire import LogLine, LogPage

BLOCK_BYTES = 256 << 10
"""As much as is looked through between two looks at the clock."""

COUNTED_BYTES = 4 << 20
PAGE_BYTES = 1 << 20
"""How much text a page holds, and at least one line."""

LOOK_BACK_BYTES = 16 << 10
PATIENCE_SECONDS = 4.0
"""Then a search answers with what it has; the next page goes on from there."""

_UNPACKED = UnpackedLogs()


@dataclass
class Wanted:
    """Which lines are wanted, and how long may be looked for them."""

    lines: int
    level: str = ""
    search: str = ""
    deadline: float = field(default_factory=lambda: time.monotonic() + PATIENCE_SECONDS)

    def __post_init__(self) -> None:
        self.lines = min(max(self.lines, 1), MAX_LINES)
        self._needle = self.search.lower().encode() if self.search.isascii() else b""
        self.search = self.search.casefold()

    def may_be_in(self, block: bytes, level: str) -> bool:
        """Whether any line of a block may be of the level; `level` is that of the line before it."""
        grave = GRAVE.get(self.level)
        return grave is None or is_at_least(level, self.level) or grave.search(block) is not None

    def raw_lines(self, block: bytes) -> Iterator[tuple[int, int, bytes]]:
        """(offset, index, bytes) of the lines in which the search may be; of a block without colours only of these."""
        if not self._needle or b"\x1b" in block:
            offset = 0
            for index, raw in enumerate(block.removesuffix(b"\n").split(b"\n")):
                yield offset, index, raw
                offset += len(raw) + 1
            return
        lower, seen, index = block.lower(), 0, 0
        while (found := lower.find(self._needle, seen)) >= 0:
            begin = block.rfind(b"\n", 0, found) + 1
            end = block.find(b"\n", found)
            end = len(block) if end < 0 else end
            index += block.count(b"\n", seen, begin)
            yield begin, index, block[begin:end]
            seen, index = end + 1, index + 1

    def takes(self, text: str, level: str) -> bool:
        """Whether this line is wanted."""
        return is_at_least(level, self.level) and (not self.search or self.search in text.casefold())


@dataclass
class Region:
    """What lies between two line starts: the lines wanted, the last of them where there are too many."""

    lines: deque[LogLine]
    line_count: int = 0
    end: int = 0
    is_open: bool = False
    """The last line has no end yet; `end` is where it begins."""

    @property
    def whole_count(self) -> int:
        """How many of its lines have an end."""
        return self.line_count - self.is_open


@contextmanager
def open_log(path: Path) -> Iterator[tuple[IO[bytes], int] | None]:
    """The file and its size; None where there is none. One that was compressed is unpacked for the while."""
    packed = packed_path(path)
    if path.exists() or not packed.exists():
        try:
            with path.open("rb") as stream:
                yield stream, stream.seek(0, 2)
        except FileNotFoundError:
            yield None
        return
    with _UNPACKED.open(packed) as whole:
        yield whole, whole.seek(0, 2)


def read_page(
    path: Path, wanted: Wanted, *, before: int | None = None, after: int | None = None, number: int | None = None,
    ended: bool = False,
) -> LogPage:  # fmt: skip
    """The last wanted lines before byte `before` (without it: of the file), or the first from `after` on.

    `number` is that of the line at `before` or `after`, where the caller knows it; else lines are counted. A last line
    without an end is told as `open` unless its writer has `ended`; the page then ends where it begins.
    """
    with open_log(path) as opened:
        if opened is None:
            return LogPage(lines=[], start=0, end=0, size=0, number=1, end_number=1, ended=ended)
        stream, size = opened
        reader = _Reader(stream, size, wanted, ended)
        if after is not None:
            return reader.onwards(min(after, size), number)
        return reader.backwards(size if before is None else min(before, size), number)


class _Reader:
    def __init__(self, stream: IO[bytes], size: int, wanted: Wanted, ended: bool) -> None:
        self._stream, self._size, self._wanted, self._ended = stream, size, wanted, ended

    def backwards(self, before: int, number: int | None) -> LogPage:
        """Block after block towards the beginning, until there are lines enough."""
        if before < self._size and (begin := self._line_start(before)) != before:
            before, number = begin, None
        found, text_bytes, position, end = deque[LogLine](), 0, before, before
        number, end_number = (1, 1) if before == 0 else (number, number or 0)
        while position > 0 and (position == before or time.monotonic() < self._wanted.deadline):
            begin = self._block_start(position)
            region = self._scan(begin, position)
            if position == before:
                number = 1 + self._count(0, begin) + region.whole_count if number is None else number
                end, end_number = region.end, number
            position, number = begin, (number or 0) - region.whole_count
            for line in reversed(region.lines):
                if found and text_bytes + len(line["text"]) > PAGE_BYTES:
                    return self._page(found, found[0]["start"], end, found[0]["number"], end_number)
                line["number"] += number
                text_bytes += len(line["text"])
                found.appendleft(line)
                if len(found) == self._wanted.lines:
                    return self._page(found, line["start"], end, line["number"], end_number)
        return self._page(found, position, end, number or 1, end_number)

    def onwards(self, after: int, number: int | None) -> LogPage:
        """Block after block towards the end."""
        if after and (begin := self._line_start(after)) != after:
            after, number = begin, None
        first = 1 + self._count(0, after) if number is None else number
        found, text_bytes, position, position_number = deque[LogLine](), 0, after, first
        while position < self._size and (rest := self._wanted.lines - len(found)):
            region = self._scan(position, self._next_block_end(position), keep_first=rest)
            for line in region.lines:
                if found and text_bytes + len(line["text"]) > PAGE_BYTES:
                    return self._page(found, after, line["start"], first, position_number + line["number"])
                line["number"] += position_number
                text_bytes += len(line["text"])
                found.append(line)
            position, position_number = region.end, position_number + region.whole_count
            if region.is_open or time.monotonic() > self._wanted.deadline:
                break
        return self._page(found, after, position, first, position_number)

    def _page(self, lines: deque[LogLine], start: int, end: int, number: int, end_number: int) -> LogPage:
        return LogPage(
            lines=list(lines), start=start, end=end, size=self._size, number=number, end_number=end_number,
            ended=self._ended,
        )  # fmt: skip

    # --- Where lines begin ---

    def _read(self, begin: int, end: int) -> bytes:
        self._stream.seek(begin)
        return self._stream.read(end - begin)

    def _line_start(self, offset: int) -> int:
        """Where the line begins that holds the byte before or at `offset`."""
        while offset > 0:
            begin = max(0, offset - BLOCK_BYTES)
            found = self._read(begin, offset).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            offset = begin
        return 0

    def _block_start(self, end: int) -> int:
        """The first line start in the block before `end`; further back where one line is longer than that."""
        begin = max(0, end - BLOCK_BYTES)
        if begin == 0:
            return 0
        found = self._read(begin, end - 1).find(b"\n")
        return begin + found + 1 if found >= 0 else self._line_start(begin)

    def _next_block_end(self, begin: int) -> int:
        """Where the last line ends that ends in the block behind `begin`; further on for a longer line."""
        position = begin
        while position < self._size:
            data = self._read(position, min(position + BLOCK_BYTES, self._size))
            is_first, is_last = position == begin, position + len(data) >= self._size
            cut = data.rfind(b"\n") if is_first else data.find(b"\n")
            if cut >= 0 and not (is_first and is_last):
                return position + cut + 1
            position += max(1, len(data))
        return self._size

    def _count(self, begin: int, end: int) -> int:
        count = 0
        for position in range(begin, end, COUNTED_BYTES):
            count += self._read(position, min(position + COUNTED_BYTES, end)).count(b"\n")
        return count

    # --- What they say ---

    def _scan(self, begin: int, end: int, keep_first: int = 0) -> Region:
        """The wanted lines between two line starts, their numbers counted from 0; `end` may be the end of the file.

        With `keep_first` it ends behind so many, else the last ones are kept.
        """
        region = Region(deque(maxlen=None if keep_first else self._wanted.lines), end=end)
        if end - begin > 2 * BLOCK_BYTES:
            self._scan_long(begin, end, region)
            return region
        data = self._read(begin, end)
        unfinished = end == self._size and not data.endswith(b"\n")
        region.is_open = unfinished and not self._ended
        region.line_count = data.count(b"\n") + unfinished
        if region.is_open:
            region.end = begin + data.rfind(b"\n") + 1
        levels = self._levels_before(begin)
        if not self._wanted.may_be_in(data, levels.level):
            return region
        next_index = next_offset = 0
        for offset, index, raw in self._wanted.raw_lines(data):
            text, start = shown(raw), begin + offset
            if index != next_index and not own_level(text):
                levels = _levels_behind(levels, data[next_offset:offset])
            next_index, next_offset, level = index + 1, offset + len(raw) + 1, levels.read(text)
            if self._wanted.takes(text, level):
                if keep_first and len(region.lines) == keep_first:
                    region.end, region.line_count, region.is_open = start, index, False
                    break
                region.lines.append(_line(start, index, level, raw, is_open=region.is_open and start == region.end))
        return region

    def _scan_long(self, begin: int, end: int, region: Region) -> None:
        """One line that is longer than a block: its beginning is kept, and all of it is searched."""
        start, size, needle = begin, 0, self._wanted.search
        head, rest, found, has_end = b"", "", not needle, False
        while begin < end:
            data = self._read(begin, min(begin + BLOCK_BYTES, end))
            begin += len(data)
            has_end = data.endswith(b"\n")
            piece = data.rstrip(b"\r\n") if begin == end else data
            if (cut := piece.rfind(b"\r")) >= 0:
                head, size, piece = b"", 0, piece[cut + 1 :]
            head, size = head + piece[: max(0, LINE_BYTES - len(head))], size + len(piece)
            searched = rest + shown(data).casefold()
            found = found or needle in searched
            rest = searched[-len(needle) :] if needle else ""
        region.line_count, region.is_open = 1, not has_end and not self._ended
        region.end = start if region.is_open else end
        text, cut_bytes = shown(head), size - len(head)
        level = self._levels_before(start).read(text)
        if found and is_at_least(level, self._wanted.level):
            line = LogLine(start=start, number=0, level=level, text=text, cut_bytes=cut_bytes, open=region.is_open)
            region.lines.append(line)

    def _levels_before(self, begin: int) -> LevelReader:
        """A reader of levels that knows the lines before `begin`."""
        return _levels_behind(LevelReader(), self._read(max(0, begin - LOOK_BACK_BYTES - 1), begin))


def _levels_behind(levels: LevelReader, passed_over: bytes) -> LevelReader:
    """The reader once it knows these whole lines too; of very many a new one that knows the last of them."""
    if len(passed_over) > LOOK_BACK_BYTES:
        levels, passed_over = LevelReader(), passed_over[-LOOK_BACK_BYTES:].partition(b"\n")[2]
    texts: list[str] = []
    for raw in reversed(passed_over.split(b"\n")[:-1]):
        texts.append(shown(raw))
        if own_level(texts[-1]):  # what was before it doesn't count any more
            break
    for text in reversed(texts):
        levels.read(text)
    return levels


def _line(start: int, number: int, level: str, raw: bytes, *, is_open: bool) -> LogLine:
    text, cut_bytes = shown_cut(raw)
    return LogLine(start=start, number=number, level=level, text=text, cut_bytes=cut_bytes, open=is_open)
