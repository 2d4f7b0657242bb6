"""Parquet tables, read in small batches of the columns that matter. Runs in the `validate` job."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.data.delimited import cells_as_row
from training.data.records import Record, UnreadableSourceError
from training.data.specs import KNOWN_KEYS, RowFaultError, has_known_shape, nearest_spec
from training.data.unpacking import Limits

BATCH_ROWS = 64
READ_BYTES = 1 << 20
"""A column is read by so many bytes, not by whole row groups."""


class ParquetReader:
    """Reads a table's rows; `size_bytes` is what the file on the disk has (the table may have been packed in it)."""

    place = "row"

    def __init__(self, path: Path, name: str, size_bytes: int, limits: Limits) -> None:
        self._path = path
        self._name = name
        self._size_bytes = size_bytes
        self._limits = limits
        self._done = 0
        self._rows = 1

    def records(self) -> Iterator[Record]:
        """A row each. Raises UnreadableSourceError for a table that is damaged or has no column to train on."""
        try:
            with pq.ParquetFile(self._path, buffer_size=READ_BYTES, pre_buffer=False) as table:
                columns = self._columns(table)
                for batch in table.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
                    yield from self._batch(batch, columns)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableSourceError(
                f"{self._name} is a Parquet table that can't be read beyond row {self._done}: "
                f"{str(error).splitlines()[0].rstrip('.')}. Write it again, or upload it again."
            ) from error

    def position(self) -> int:
        """The share of rows done, as bytes of the file."""
        return min(self._size_bytes, self._size_bytes * self._done // self._rows)

    def _columns(self, table: pq.ParquetFile) -> dict[str, str]:
        """The columns that have a known key's name, and that key."""
        self._rows = max(1, table.metadata.num_rows)
        groups = (table.metadata.row_group(index) for index in range(table.metadata.num_row_groups))
        self._limits.check(self._name, self._path.stat().st_size, sum(group.total_byte_size for group in groups))
        keys = {name: name.strip().lower() for name in table.schema_arrow.names}
        if not has_known_shape(list(keys.values())):
            raise UnreadableSourceError(
                f"{self._name} has no columns that can be trained on. {nearest_spec(list(keys.values()))}"
            )
        return {name: key for name, key in keys.items() if key in KNOWN_KEYS}

    def _batch(self, batch: pa.RecordBatch, columns: dict[str, str]) -> Iterator[Record]:
        named = [(columns[name], batch.column(name)) for name in batch.schema.names]
        for index in range(batch.num_rows):
            self._done += 1
            try:
                cells: dict[str, Any] = {key: column[index].as_py() for key, column in named}
            except UnicodeDecodeError as error:
                fault = RowFaultError(
                    "invalid_utf8", f"Byte {error.start + 1} of a cell is not UTF-8. Write the table with UTF-8 texts."
                )
                yield Record(self._done, fault)
                continue
            yield Record(self._done, cells_as_row({key: value for key, value in cells.items() if value is not None}))
