"""What every kind of file is read as: one record after the other. Runs in the `validate` job."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from training.data.specs import ParsedRow, RowFaultError, check_encodable, check_length, parse_row


class UnreadableSourceError(ValueError):
    """A file that can't be read, or not to its end: a sentence that names the file and what to do."""


class Record(NamedTuple):
    """One row of a file and where it stands, from 1; `data` is its own line where that can be kept as it is."""

    number: int
    row: ParsedRow | RowFaultError
    data: bytes | None = None


class Reader(Protocol):
    """A file being read in bounded memory."""

    @property
    def place(self) -> str:
        """What a record's number counts: line, element or row."""

    def records(self) -> Iterator[Record]:
        """The records in order. Raises UnreadableSourceError."""

    def position(self) -> int:
        """How many bytes of the file have been read."""


def as_row(value: Any) -> ParsedRow | RowFaultError:
    """A value that was no line of JSON, as a row, or what is wrong with it."""
    try:
        row = parse_row(value)
        check_encodable(row.example)
        check_length(row.example)
    except RowFaultError as fault:
        return fault
    return row
