"""TensorBoard's event files, read a block at a time: the scalars in them. Runs in the web process; knows no data base.

A file is records (length, a CRC-32C of it, the data, a CRC-32C of that); the data is a protocol buffer, whose few
fields that hold scalars are described here: Google's protobuf reads it without TensorFlow and TensorBoard's server.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from controlplane.errors import InvalidInputError
from controlplane.services.curve_export import FIXED32, masked_crc

BLOCK_BYTES = 1 << 20
LONGEST_RECORD = 256 << 20
HEAD, TAIL = 12, 4
VERSION = "brain.Event:"
AGAIN = "Copy it again from where it was written."
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
"""TensorFlow's numbers of the types that a scalar's bytes may have."""


class Scalar(NamedTuple):
    """One value of a tag; `time` in Unix seconds."""

    tag: str
    step: int
    value: float
    time: float


class EventFileError(InvalidInputError):
    """A file that can't be read as TensorBoard's."""


def scalars(path: Path, name: str) -> Iterator[tuple[int, list[Scalar]]]:
    """The scalars of a file in its order, with how many bytes were read for them, a block at a time.

    Raises EventFileError, which calls the file `name`, where it is of another type, damaged, or ends too early.
    """
    event, is_first = _event(), True
    with path.open("rb") as stream:
        for used, records in _records(stream, name):
            found: list[Scalar] = []
            for data in records:
                try:
                    event.ParseFromString(data)
                except DecodeError:
                    raise _alien(name) if is_first else _damaged(name) from None
                if is_first and not event.file_version.startswith(VERSION):
                    raise _alien(name)
                is_first = False
                found += _in_event(event)
            yield used, found
    if is_first:
        raise EventFileError(f"{name} is empty. {AGAIN}")


def _alien(name: str) -> EventFileError:
    return EventFileError(
        f"{name} is no event file of TensorBoard. Choose the files whose names begin with events.out.tfevents."
    )


def _damaged(name: str) -> EventFileError:
    return EventFileError(f"{name} is damaged: what it holds doesn't agree with its check sums. {AGAIN}")


# --- Records ----------------------------------------------------------------------------------------------------------


def _records(stream: BinaryIO, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Whole records whose check sums are right, and the bytes that they took."""
    rest, is_first = b"", True
    while block := stream.read(BLOCK_BYTES):
        buffer = rest + block
        starts, sizes = _cut(buffer, name, is_first)
        used = starts[-1] + HEAD + sizes[-1] + TAIL if starts else 0
        if starts and not _are_right(buffer, starts, sizes):
            raise _alien(name) if is_first and not _are_right(buffer, starts[:1], sizes[:1]) else _damaged(name)
        is_first = is_first and not starts
        yield used, [buffer[at + HEAD : at + HEAD + size] for at, size in zip(starts, sizes, strict=True)]
        rest = buffer[used:]
    if rest:
        if is_first:
            raise _alien(name)
        if len(rest) >= HEAD and not _agree(np.frombuffer(rest, dtype=np.uint8), np.zeros(1, dtype=np.int64), 8):
            raise _damaged(name)
        raise EventFileError(
            f"{name} ends in the middle of a record: the copy isn't whole, or its writer is still at work. Copy it "
            "again when that has ended."
        )


def _cut(buffer: bytes, name: str, is_first: bool) -> tuple[list[int], list[int]]:
    """Where the whole records begin, and how long their data are."""
    starts: list[int] = []
    sizes: list[int] = []
    at, end = 0, len(buffer)
    while at + HEAD <= end:
        size = int.from_bytes(buffer[at : at + 8], "little")
        if size > LONGEST_RECORD:
            raise _alien(name) if is_first and not at else _damaged(name)
        if at + HEAD + size + TAIL > end:
            break
        starts.append(at)
        sizes.append(size)
        at += HEAD + size + TAIL
    return starts, sizes


def _are_right(buffer: bytes, starts: list[int], sizes: list[int]) -> bool:
    """Whether lengths and data agree with their check sums. Equally long records are looked at together."""
    whole = np.frombuffer(buffer, dtype=np.uint8)
    places, lengths = np.array(starts), np.array(sizes)
    if not _agree(whole, places, 8):
        return False
    return all(_agree(whole, places[lengths == size] + HEAD, int(size)) for size in np.unique(lengths))


def _agree(whole: Any, places: Any, size: int) -> bool:
    """Whether the `size` bytes at each place have the check sum that stands behind them."""
    rows = whole[places[:, None] + np.arange(size)]
    said = whole[places[:, None] + size + np.arange(TAIL)]
    return bool((masked_crc(rows) == np.ascontiguousarray(said).view(FIXED32)[:, 0]).all())


# --- Events -----------------------------------------------------------------------------------------------------------


def _in_event(event: Any) -> Iterator[Scalar]:
    for value in event.summary.value:
        number = value.simple_value if value.HasField("simple_value") else _in_tensor(value)
        if number is not None and value.tag:
            time = event.wall_time if math.isfinite(event.wall_time) else 0.0
            yield Scalar(value.tag, event.step, number, time)


def _in_tensor(value: Any) -> float | None:
    """The number of a tensor without dimensions, as TensorFlow 2 writes scalars; None for anything else."""
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    tensor, form = value.tensor, DTYPES.get(value.tensor.dtype)
    for listed in (tensor.float_val, tensor.double_val, tensor.int_val, tensor.int64_val):
        if len(listed) == 1:
            return float(listed[0])
    if form is None or len(tensor.tensor_content) != np.dtype(form).itemsize:
        return None
    return float(np.frombuffer(tensor.tensor_content, dtype=form)[0])


@cache
def _event_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_described())  # type: ignore[no-untyped-call,unused-ignore]
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pilothouse.Event"))


def _event() -> Any:
    return _event_class()()


FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Event": (("wall_time", 1, "double"), ("step", 2, "int64"), ("file_version", 3, "string"),
              ("summary", 5, "Summary")),
    "Summary": (("value", 1, "Value*"),),
    "Value": (("tag", 1, "string"), ("simple_value", 2, "float?"), ("tensor", 8, "Tensor")),
    "Tensor": (
        ("dtype", 1, "int32"), ("tensor_shape", 2, "Shape"), ("tensor_content", 4, "bytes"), ("float_val", 5, "float*"),
        ("double_val", 6, "double*"), ("int_val", 7, "int32*"), ("int64_val", 10, "int64*"),
    ),
    "Shape": (("dim", 2, "Dimension*"),),
    "Dimension": (("size", 1, "int64"),),
}  # fmt: skip
"""What is read of TensorFlow's event.proto, summary.proto and tensor.proto; `*` repeated, `?` told from 0."""


def _described() -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="events.proto", package="pilothouse", syntax="proto2")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            plain = kind.rstrip("*?")
            field = described.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            if plain in FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".pilothouse.{plain}"
            else:
                field.type = getattr(kinds, f"TYPE_{plain.upper()}")
    return file
