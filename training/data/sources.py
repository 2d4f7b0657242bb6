"""An uploaded file, whatever it is: recognised by its first bytes, and opened as records. Runs in the `validate` job.

JSON lines, one JSON array, CSV (TSV, semicolons) and Parquet, each also gzipped. The name is asked only where the bytes
leave it open: whether text without a known header is a table.
"""

import csv
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, cast

from training.data.delimited import DelimitedReader, delimiter_of, header_of
from training.data.json_array import JsonArrayReader
from training.data.json_lines import JsonLinesReader
from training.data.records import Reader, UnreadableSourceError
from training.data.rows import LINE_LIMIT_BYTES
from training.data.specs import KNOWN_KEYS
from training.data.unpacking import Limits, UnpackedStream

Format = Literal["jsonl", "json", "csv", "parquet"]
HEAD_BYTES = 64 << 10
BUFFER_BYTES = 256 << 10
UNPACKED_PREFIX = ".unpacked."
"""How the unpacked copy of a gzipped Parquet table is called, beside the file: it must be read from its end."""

GZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
REFUSED = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"ARROW1": "an Arrow table",
    b"SQLite format 3": "an SQLite data base",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    GZIP_MAGIC: "a gzip file inside another one",
}


@dataclass(frozen=True)
class Source:
    """A file on the disk, how its owner calls it, and what it turned out to be."""

    path: Path
    name: str
    format: Format
    is_gzipped: bool

    @property
    def format_name(self) -> str:
        """As the report has it: `csv`, `csv.gz`."""
        return f"{self.format}.gz" if self.is_gzipped else self.format


def recognise(path: Path, name: str, limits: Limits) -> Source:
    """What a file is. Raises UnreadableSourceError for what can't be read here, and for an empty file."""
    with path.open("rb") as file:
        is_gzipped = file.read(2) == GZIP_MAGIC
    with _unpacked(path, name, is_gzipped, limits) as (stream, _):
        head = stream.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)
    if not head.strip():
        raise UnreadableSourceError(f"{name} is empty: it holds no rows. Give a file with one JSON object a line.")
    return Source(path, name, _format_of(head, name), is_gzipped)


def _format_of(head: bytes, name: str) -> Format:
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    for magic, kind in REFUSED.items():
        if head.startswith(magic):
            raise UnreadableSourceError(
                f"{name} is {kind}. Give JSON lines, a JSON array, CSV or Parquet, as UTF-8 and plain or gzipped."
            )
    start = head.lstrip()
    if start.startswith(b"["):
        return "json"
    return "csv" if not start.startswith(b"{") and _is_table(head, name) else "jsonl"


def _is_table(head: bytes, name: str) -> bool:
    line = head.partition(b"\n")[0].decode("utf-8", "replace")
    try:
        columns = header_of(line, delimiter_of(line))
    except csv.Error:
        columns = []
    return bool(KNOWN_KEYS & set(columns)) or name.lower().endswith(TABLE_SUFFIXES)


@contextmanager
def opened(source: Source, limits: Limits, line_limit_bytes: int = LINE_LIMIT_BYTES) -> Iterator[Reader]:
    """A file's records. Raises UnreadableSourceError, then and while they are read."""
    if source.format == "parquet":
        from training.data.parquet import ParquetReader  # pyarrow takes 50 MB and 0.3 s, for this kind of file alone

        size = source.path.stat().st_size
        with _on_disk(source, limits) as path:
            yield ParquetReader(path, source.name, size, limits)
        return
    with _unpacked(source.path, source.name, source.is_gzipped, limits) as (stream, counted):
        if source.format == "json":
            yield JsonArrayReader(stream, counted, source.name, line_limit_bytes)
        elif source.format == "csv":
            yield DelimitedReader(stream, counted, source.name, line_limit_bytes)
        else:
            yield JsonLinesReader(stream, counted, line_limit_bytes)


@contextmanager
def _unpacked(path: Path, name: str, is_gzipped: bool, limits: Limits) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file's contents as a buffered stream, and the file itself, which tells how much of it has been read."""
    with path.open("rb", buffering=0) as file:
        counted = cast(BinaryIO, file)
        raw = UnpackedStream(counted, name, limits) if is_gzipped else file
        yield cast(BinaryIO, BufferedReader(raw, BUFFER_BYTES)), counted


@contextmanager
def _on_disk(source: Source, limits: Limits) -> Iterator[Path]:
    """A path under which the file lies unpacked."""
    if not source.is_gzipped:
        yield source.path
        return
    with (
        tempfile.NamedTemporaryFile(prefix=UNPACKED_PREFIX, dir=source.path.parent) as copy,
        _unpacked(source.path, source.name, True, limits) as (stream, _),
    ):
        while block := stream.read(BUFFER_BYTES):
            copy.write(block)
        copy.flush()
        yield Path(copy.name)
