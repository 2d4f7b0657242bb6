"""The curves of a run as files, piece by piece: CSV, and TensorBoard's event file. Runs in the web process.

An event file is records of a fixed form (length, data, a CRC-32C of each), the data a protocol buffer of four fields.
It is written here by numpy, thousands of points at once: TensorBoard's own writer brings a web server and gRPC with it,
tensorboardX imports torch where it finds it, and both take ten seconds for a million points.
"""

import csv
import io
import struct
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from controlplane.models import Run
from controlplane.services.curve_reading import all_points
from controlplane.services.event_records import record
from controlplane.services.points import Points
from controlplane.services.spreadsheets import harmless

Bytes = NDArray[np.uint8]
VARINT_BYTES = 10
"""A step is written as long as the longest number is: the points of a key have one length then."""


def csv_pieces(run: Run, keys: Iterable[str]) -> Iterator[bytes]:
    """Every point of the keys: key, step, value, Unix seconds."""
    yield b"key,step,value,time\n"
    for key in keys:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([harmless(key)])
        name = line.getvalue()
        for points in all_points(run, key):
            rows = zip(points.steps.tolist(), points.encoded(), points.times.tolist(), strict=True)
            yield "".join(f"{name},{step},{value},{time}\n" for step, value, time in rows).encode()


def event_pieces(run: Run, keys: Iterable[str]) -> Iterator[bytes]:
    """Every point of the keys as TensorBoard reads them; its values have single precision."""
    opened = struct.pack("<d", run.created_at.timestamp())
    version = b"brain.Event:2"
    yield record(b"\x09" + opened + b"\x1a" + _sized(version))
    for key in keys:
        for points in all_points(run, key):
            yield _records(_events(key, points))


def _sized(data: bytes) -> bytes:
    """The data behind its length, as a protocol buffer has it."""
    length, number = bytearray(), len(data)
    while number > 0x7F:
        length.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*length, number]) + data


def _events(key: str, points: Points) -> Bytes:
    """One event a row: wall_time (1), step (2) and summary (5) with one value of tag (1) and simple_value (2)."""
    value = b"\x0a" + _sized(key.encode()) + b"\x15" + bytes(4)
    summary = b"\x2a" + _sized(b"\x0a" + _sized(value))
    form = b"\x09" + bytes(8) + b"\x10" + bytes(VARINT_BYTES) + summary
    rows = np.tile(np.frombuffer(form, dtype=np.uint8), (len(points), 1))
    rows[:, 1:9] = _bytes(points.times, "<f8")
    rows[:, 10 : 10 + VARINT_BYTES] = _varints(points.steps)
    with np.errstate(over="ignore"):  # beyond single precision is infinite there
        rows[:, -4:] = _bytes(points.values, "<f4")
    return rows


def _varints(steps: NDArray[np.int64]) -> Bytes:
    shifts = np.arange(VARINT_BYTES, dtype=np.uint64) * np.uint64(7)
    sevens = (steps.astype(np.uint64)[:, None] >> shifts & np.uint64(0x7F)).astype(np.uint8)
    sevens[:, :-1] |= 0x80
    return sevens


def _bytes(numbers: NDArray[np.generic], form: str) -> Bytes:
    """The bytes of each number as a row."""
    plain = np.ascontiguousarray(numbers.astype(form))
    return plain.view(np.uint8).reshape(len(plain), plain.dtype.itemsize)


def _records(rows: Bytes) -> bytes:
    """Equally long data, each as a record."""
    data, size = rows.tobytes(), rows.shape[1]
    return b"".join(record(data[at : at + size]) for at in range(0, len(data), size))
