"""The per-example log of an evaluation: one JSON object a row, appended as rows are done, in the attempt's folder.

Runs in the inference process of `evaluate`. A new attempt begins with what earlier ones have logged, so that a restart
goes on where it was; a torn last line is left out, and so are rows that failed for the device or the engine (`retry`),
which are then tried again.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from monitoring.files import replacing

EXAMPLES_FILE = "examples.jsonl"
"""Answers, what was expected, scores."""

LOSSES_FILE = "losses.jsonl"


class RowLog:
    """One file of an attempt. `rows` are those that it holds."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.rows: set[int] = set()
        earlier = _latest(folder, name)
        with replacing(self.path) as stream:
            for line, value in _whole_lines(earlier) if earlier else ():
                if value["row"] not in self.rows and not value.get("retry"):
                    self.rows.add(value["row"])
                    stream.write(line)
        self._stream = self.path.open("ab", buffering=0)

    def add(self, value: dict[str, Any]) -> None:
        """Appends a row: its number stands under `row`."""
        self._stream.write(json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self.rows.add(value["row"])

    def read(self) -> Iterator[dict[str, Any]]:
        """What has been logged, by this attempt and by those before."""
        return (value for _, value in _whole_lines(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stream.close()


def _latest(folder: Path, name: str) -> Path | None:
    """The file of the last attempt before this one that has one: it begins with all that came before it."""
    if not folder.name.isdecimal():
        return None
    earlier = (folder.parent / str(number) / name for number in range(int(folder.name) - 1, 0, -1))
    return next((path for path in earlier if path.is_file()), None)


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    parse: Callable[[bytes], Any] = json.loads
    with path.open("rb") as stream:
        for line in stream:
            try:
                value = parse(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and isinstance(value, dict) and isinstance(value.get("row"), int):
                yield line, value
