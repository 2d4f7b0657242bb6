"""One JSON object a line. Runs in the `validate` job."""

from collections.abc import Iterator
from typing import BinaryIO

from training.data.records import Record
from training.data.rows import LINE_LIMIT_BYTES, Line, iter_lines
from training.data.specs import ParsedRow, RowFaultError, parse_line


class JsonLinesReader:
    """Reads a stream of text; `counted` is the file below it, by which the position is told."""

    place = "line"

    def __init__(self, stream: BinaryIO, counted: BinaryIO, line_limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._stream = stream
        self._counted = counted
        self._limit = line_limit_bytes

    def records(self) -> Iterator[Record]:
        """A line each; blank ones are left out, but counted."""
        for line in iter_lines(self._stream, self._limit):
            row = self._row(line)
            yield Record(line.number, row, None if isinstance(row, RowFaultError) or row.is_mapped else line.data)

    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._counted.tell()

    def _row(self, line: Line) -> ParsedRow | RowFaultError:
        if line.data is None:
            return line_too_long(self._limit)
        try:
            return parse_line(line.data)
        except RowFaultError as fault:
            return fault


def line_too_long(limit_bytes: int) -> RowFaultError:
    """The fault of a line beyond the limit."""
    return RowFaultError(
        "line_too_long", f"The line is longer than {limit_bytes:,} bytes. Split the conversation, or leave it out."
    )
