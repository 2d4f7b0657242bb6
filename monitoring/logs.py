"""Reading a log file by its end or from an offset, however large it is. Pages of one are `monitoring.log_pages`'.

Runs in the agent; standard library only.
"""

import base64
from pathlib import Path

from monitoring.log_text import shown
from monitoring.wire import LogBytes, LogSlice

BLOCK_BYTES = 1 << 16
MAX_BYTES = 1 << 20
MAX_LINES = 5000


def read_tail(path: Path, lines: int, limit_bytes: int = MAX_BYTES) -> LogSlice:
    """The last `lines` lines of a file, of at most `limit_bytes` in all. An unfinished last line counts.

    A file that doesn't exist yet reads as empty.
    """
    wanted, limit = min(max(lines, 1), MAX_LINES), min(max(limit_bytes, 1), MAX_BYTES)
    try:
        with path.open("rb") as stream:
            size = start = stream.seek(0, 2)
            data = b""
            while start > 0 and len(data) < limit and data.count(b"\n", 0, max(len(data) - 1, 0)) < wanted:
                step = min(BLOCK_BYTES, start, limit - len(data))
                start -= step
                stream.seek(start)
                data = stream.read(step) + data
    except FileNotFoundError:
        return LogSlice(lines=[], start=0, end=0, size=0)
    if start > 0 and (cut := data.find(b"\n") + 1):  # the first line is likely to be only the end of one
        data = data[cut:]
    kept = _last_lines(data, wanted)
    return LogSlice(lines=_text_lines(kept), start=size - len(kept), end=size, size=size)


def read_from(path: Path, start: int, limit_bytes: int = MAX_BYTES, *, ended: bool = False) -> LogSlice:
    """Whole lines from byte `start` on. A line longer than the limit comes in pieces; an unfinished last line is
    left for the next call, unless its writer has `ended`."""
    limit = min(max(limit_bytes, 1), MAX_BYTES)
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            begin = min(max(start, 0), size)
            stream.seek(begin)
            data = stream.read(limit)
    except FileNotFoundError:
        return LogSlice(lines=[], start=0, end=0, size=0)
    whole = data.rfind(b"\n") + 1
    is_rest = begin + len(data) >= size
    if (is_rest and ended) or (not whole and len(data) == limit):
        whole = len(data)
    return LogSlice(lines=_text_lines(data[:whole]), start=begin, end=begin + whole, size=size)


def read_bytes(path: Path, start: int, limit_bytes: int = MAX_BYTES) -> LogBytes:
    """Bytes from `start` on of the file, or of what it was compressed to."""
    packed = not path.exists() and packed_path(path).exists()
    try:
        with (packed_path(path) if packed else path).open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(min(max(start, 0), size))
            data = stream.read(min(max(limit_bytes, 1), MAX_BYTES))
    except FileNotFoundError:
        return LogBytes(data="", size=0, packed=False)
    return LogBytes(data=base64.b64encode(data).decode(), size=size, packed=packed)


def packed_path(path: Path) -> Path:
    """Where a log lies once it was compressed."""
    return path.with_name(path.name + ".gz")


def _last_lines(data: bytes, wanted: int) -> bytes:
    """A carriage return doesn't end a line: progress bars are full of them."""
    position = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(wanted):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return data
    return data[position + 1 :]


def _text_lines(data: bytes) -> list[str]:
    return [shown(line) for line in data.removesuffix(b"\n").split(b"\n")] if data else []
