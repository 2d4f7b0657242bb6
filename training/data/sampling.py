"""The level QUICK: some rows of a file, within a second however large it is. Runs in the `validate` job.

A small file is read from its beginning until the time is up. Of large JSON lines rows from all over the file are read,
each found from a byte in the middle of the row before; so places are bytes there, not lines.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, cast

from training.data.json_lines import JsonLinesReader
from training.data.records import Reader, Record
from training.data.rows import LINE_LIMIT_BYTES
from training.data.sources import Source, opened
from training.data.unpacking import Limits
from training.data.validation import choose_spec, validate

SAMPLE_ROWS = 500
READ_SECONDS = 0.3
"""For each of the two passes: one finds the spec, one checks against it."""

SPREAD_FROM_BYTES = 4 << 20


def quick_report(source: Source, limits: Limits, max_fault_fraction: float) -> dict[str, Any]:
    """What a sample of the file's rows tells: `passed`, `reason`, and of the report what a sample can say.

    Raises UnreadableSourceError.
    """
    began = time.perf_counter()
    with _sampled(source, limits) as reader:
        spec = choose_spec(reader)
    with _sampled(source, limits) as reader:
        findings = validate(reader, spec, cast(BinaryIO, _Nowhere()), lambda done: None, limits)
    reason = findings.rejection(source.name, max_fault_fraction)
    kept = ("place", "spec", "rows", "faulty", "faults", "fault_codes", "shapes", "roles")
    report = {key: value for key, value in findings.to_report().items() if key in kept}
    return {
        "passed": reason is None, "reason": reason or "", "format": source.format_name, **report,
        "seconds": round(time.perf_counter() - began, 3),
    }  # fmt: skip


@contextmanager
def _sampled(source: Source, limits: Limits) -> Iterator[Reader]:
    """A reader of a part of the file."""
    if source.format_name == "jsonl" and source.path.stat().st_size > SPREAD_FROM_BYTES:
        yield SpreadReader(source.path)
        return
    with opened(source, limits) as reader:
        yield FirstRows(reader)


class FirstRows:
    """The rows of another reader, until there are enough or the time is up."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.place = reader.place

    def records(self) -> Iterator[Record]:
        """At least one record, where there is one."""
        until = time.perf_counter() + READ_SECONDS
        for count, record in enumerate(self._reader.records(), start=1):
            yield record
            if count >= SAMPLE_ROWS or time.perf_counter() > until:
                return

    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._reader.position()


class SpreadReader:
    """Rows of JSON lines from evenly spread places; a record's number is the byte at which its line begins, from 1."""

    place = "byte"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def records(self) -> Iterator[Record]:
        """The first row, and those that follow the places."""
        size = self._path.stat().st_size
        until = time.perf_counter() + READ_SECONDS
        places = (size * index // SAMPLE_ROWS for index in range(SAMPLE_ROWS))
        with self._path.open("rb") as stream:
            for place in takewhile(lambda place: not place or time.perf_counter() < until, places):
                stream.seek(place)
                if place and not stream.readline(LINE_LIMIT_BYTES).endswith(b"\n"):
                    continue
                self._position = start = stream.tell()
                for record in JsonLinesReader(stream, stream).records():
                    yield record._replace(number=start + 1)
                    break

    def position(self) -> int:
        """Where the row read last begins."""
        return self._position


class _Nowhere:
    """Takes the accepted rows of a sample, which nobody keeps."""

    def write(self, data: bytes) -> int:
        """Forgets them."""
        return len(data)
