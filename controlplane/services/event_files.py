"""TensorBoard's event files, read a block at a time: the scalars in them. Runs in the web process; knows no data base.

The data of each record is a protocol buffer, whose few fields that hold scalars are described here: Google's protobuf
reads it without TensorFlow and TensorBoard's server.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from controlplane.services.event_records import AGAIN, EventFileError, alien, damaged, records

VERSION = "brain.Event:"
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
"""TensorFlow's numbers of the types that a scalar's bytes may have."""


class Scalar(NamedTuple):
    """One value of a tag; `time` in Unix seconds."""

    tag: str
    step: int
    value: float
    time: float


def scalars(path: Path, name: str) -> Iterator[tuple[int, list[Scalar]]]:
    """The scalars of a file in its order, with how many bytes were read for them, a block at a time.

    Raises EventFileError, which calls the file `name`, where it is of another type, damaged, or ends too early.
    """
    event, is_first = _event(), True
    with path.open("rb") as stream:
        for used, block in records(stream, name):
            found: list[Scalar] = []
            for data in block:
                try:
                    event.ParseFromString(data)
                except DecodeError:
                    raise alien(name) if is_first else damaged(name) from None
                if is_first and not event.file_version.startswith(VERSION):
                    raise alien(name)
                is_first = False
                found += _in_event(event)
            yield used, found
    if is_first:
        raise EventFileError(f"{name} is empty. {AGAIN}")


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
