"""The rows of a dataset by number, as a training run numbers them. Runs in the inference process of verbs that read
rows.
"""

import os
from array import array
from pathlib import Path

from monitoring.attempt import JobFaultError
from training.data.rows import LINE_LIMIT_BYTES, ROWS_FILE
from training.data.specs import Example, parse_line


class NumberedRows:
    """The rows of a dataset's folder; 16 bytes each are held. Raises JobFaultError `dataset_missing`,
    `dataset_empty`."""

    def __init__(self, folder: Path) -> None:
        path = folder / ROWS_FILE
        if not path.is_file():
            raise JobFaultError("dataset_missing", f"There is no {path}.", "Validate the dataset again.")
        self._starts, self._lengths = _index(path)
        if not self._starts:
            raise JobFaultError("dataset_empty", f"{path} holds no rows.", "Choose a dataset with rows in it.")
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, number: int) -> Example:
        """A row, from 0. Raises RowFaultError."""
        line = os.pread(self._descriptor, self._lengths[number], self._starts[number])
        return parse_line(line.strip()).example


def _index(path: Path) -> "tuple[array[int], array[int]]":
    """Where each row begins and how long it is, in bytes."""
    starts, lengths = array("Q"), array("L")
    position = 0
    with path.open("rb", buffering=1 << 20) as stream:
        for line in stream:
            start, position = position, position + len(line)
            if len(line) <= LINE_LIMIT_BYTES and not line.isspace():
                starts.append(start)
                lengths.append(len(line))
    return starts, lengths
