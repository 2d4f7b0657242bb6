"""Tables as text: CSV, TSV and the like, with a header that names the keys. Runs in the `validate` job."""

import csv
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from training.data.json_lines import line_too_long
from training.data.records import Record, UnreadableSourceError, as_row
from training.data.rows import LINE_LIMIT_BYTES
from training.data.specs import KNOWN_KEYS, ParsedRow, RowFaultError, has_known_shape, nearest_spec

DELIMITERS = ",;\t|"
BYTE_ORDER_MARK = "\ufeff"
QUOTE_FIX = "A text with a comma, a quote or a line break stands in double quotes, and quotes in it are doubled."


class DelimitedReader:
    """Reads the rows under a header; the columns `messages`, `prompt` and `completion` may hold JSON lists."""

    place = "line"

    def __init__(self, stream: BinaryIO, counted: BinaryIO, name: str, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._counted = counted
        self._name = name
        self._lines = _Lines(stream, limit_bytes)

    def records(self) -> Iterator[Record]:
        """A record each, named by the line it begins in. Raises UnreadableSourceError for a header that won't do."""
        csv.field_size_limit(self._lines.limit_bytes)
        columns, delimiter = self._header()
        cells = csv.reader(self._lines, delimiter=delimiter, strict=True)
        while True:
            first = self._lines.begin_record()
            try:
                values = next(cells)
            except StopIteration:
                return
            except RowFaultError as fault:
                yield Record(first, fault)
            except csv.Error as error:
                yield Record(first, RowFaultError("bad_cells", f"Not CSV: {error}. {QUOTE_FIX}"))
            else:
                if values:
                    yield Record(first, _row(columns, values))

    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._counted.tell()

    def _header(self) -> tuple[list[str], str]:
        try:
            line = next(self._lines, "").removeprefix(BYTE_ORDER_MARK)
            delimiter = delimiter_of(line)
            columns = header_of(line, delimiter)
        except (RowFaultError, csv.Error) as error:
            raise UnreadableSourceError(
                f"The header in line 1 of {self._name} can't be read: {error} Name the columns there."
            ) from error
        if twice := sorted({column for column in columns if column and columns.count(column) > 1}):
            raise UnreadableSourceError(
                f"Line 1 of {self._name} names the column {twice[0]} twice. Give each column a name of its own."
            )
        if not has_known_shape(columns):
            raise UnreadableSourceError(
                f"Line 1 of {self._name} names no columns that can be trained on. {nearest_spec(columns)}"
            )
        return columns, delimiter


def delimiter_of(line: str) -> str:
    """The delimiter by which a header line names the most known columns; of equals the one that parts it most."""

    def fitness(delimiter: str) -> tuple[int, int]:
        columns = header_of(line, delimiter)
        return len(KNOWN_KEYS & set(columns)), len(columns)

    return max(DELIMITERS, key=fitness)


def header_of(line: str, delimiter: str) -> list[str]:
    """The names in a header line, trimmed and in small letters. Raises csv.Error."""
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]


class _Lines:
    """The lines of a stream as text. A line that can't be had raises RowFaultError, and the next one can be asked for.

    A record may reach over many lines: what `begin_record` has begun may be as long as a line may.
    """

    def __init__(self, stream: BinaryIO, limit_bytes: int) -> None:
        self._stream = stream
        self.limit_bytes = limit_bytes
        self._number = 0
        self._record_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self.limit_bytes + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self._record_bytes += len(line)
        if self._record_bytes > self.limit_bytes:
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(self.limit_bytes)
            raise line_too_long(self.limit_bytes)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowFaultError(
                "invalid_utf8",
                f"Byte {error.start + 1} of line {self._number} (0x{line[error.start]:02x}) is not UTF-8. "
                "Save the file as UTF-8.",
            ) from error

    def begin_record(self) -> int:
        """The number of the line in which the next record begins."""
        self._record_bytes = 0
        return self._number + 1


def _row(columns: list[str], values: list[str]) -> ParsedRow | RowFaultError:
    if len(values) != len(columns):
        return RowFaultError(
            "bad_cells", f"The record has {len(values)} cells, the header {len(columns)} columns. {QUOTE_FIX}"
        )
    cells = {column: value for column, value in zip(columns, values, strict=True) if column and value}
    return cells_as_row(cells)


def cells_as_row(cells: dict[str, Any]) -> ParsedRow | RowFaultError:
    """A table's record as a row; lists of messages may be written as JSON."""
    for key in ("messages", "prompt", "completion"):
        text = cells.get(key)
        if not isinstance(text, str):
            continue
        try:
            if key == "messages" or text.startswith('[{"role"'):
                cells[key] = json.loads(text)
        except (ValueError, RecursionError) as error:
            return RowFaultError(
                "bad_messages",
                f"The column `{key}` holds no JSON: {error}. Write a list of role/content objects there.",
            )
    return as_row(cells)
