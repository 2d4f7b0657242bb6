"""Reading a dataset line by line in bounded memory. Runs in every process; imports neither torch nor transformers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

ROWS_FILE = "rows.jsonl"
"""The accepted rows in a dataset's folder."""
LINE_LIMIT_BYTES = 16 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnreadableRowsError(ValueError):
    """A file that should hold one JSON object a line doesn't."""


class Line(NamedTuple):
    """`number` counts from 1, blank lines too; `data` is None for a line beyond the limit; `end` is a byte offset."""

    number: int
    data: bytes | None
    end: int


def iter_lines(stream: BinaryIO, limit_bytes: int = LINE_LIMIT_BYTES) -> Iterator[Line]:
    """The lines of a binary stream without their ends; blank ones are left out, as is a leading byte-order mark."""
    number = end = 0
    while piece := stream.readline(limit_bytes + 1):
        number += 1
        end += len(piece)
        if len(piece) > limit_bytes and not piece.endswith(b"\n"):
            while (rest := stream.readline(limit_bytes)) and not rest.endswith(b"\n"):
                end += len(rest)
            end += len(rest)
            yield Line(number, None, end)
            continue
        data = piece.removeprefix(_BYTE_ORDER_MARK) if number == 1 else piece
        if data := data.strip():
            yield Line(number, data, end)


def read_rows(path: Path, offset: int, limit: int) -> list[dict[str, Any]]:
    """`limit` rows from row `offset` (from 0) on, of a file such as `rows.jsonl`; fewer at its end.

    Reads no further than the last row it returns. Raises UnreadableRowsError when one of them is not a JSON object.
    """
    rows: list[dict[str, Any]] = []
    if limit <= 0:
        return rows
    with path.open("rb") as stream:
        for index, line in enumerate(iter_lines(stream)):
            if index < offset:
                continue
            rows.append(_object(path, line))
            if len(rows) == limit:
                break
    return rows


def _object(path: Path, line: Line) -> dict[str, Any]:
    try:
        value = json.loads(line.data) if line.data is not None else None
    except ValueError as error:
        raise UnreadableRowsError(f"Line {line.number} of {path.name} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UnreadableRowsError(f"Line {line.number} of {path.name} is not a JSON object.")
    return value
