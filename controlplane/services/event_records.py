"""TensorBoard's event files as records: length, a CRC-32C of it, data, a CRC-32C of that. Runs in the web process."""

import os
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from controlplane.errors import InvalidInputError

BLOCK_BYTES = 1 << 20
LONGEST_RECORD = 1 << 20
"""Longer ones hold images and graphs, not scalars: they are passed over unread, their check sum with them."""

SIZE_BYTES, SUM_BYTES = 8, 4
CRC_MASK = 0xA282EAD8
AGAIN = "Copy it again from where it was written."


class EventFileError(InvalidInputError):
    """A file that can't be read as TensorBoard's."""


def alien(name: str) -> EventFileError:
    """Of a file that is of another type."""
    return EventFileError(
        f"{name} is no event file of TensorBoard. Choose the files whose names begin with events.out.tfevents."
    )


def damaged(name: str) -> EventFileError:
    """Of a file whose check sums are wrong."""
    return EventFileError(f"{name} is damaged: what it holds doesn't agree with its check sums. {AGAIN}")


def _cut_off(name: str) -> EventFileError:
    return EventFileError(
        f"{name} ends in the middle of a record: the copy isn't whole, or its writer is still at work. Copy it "
        "again when that has ended."
    )


def check_sum(data: bytes) -> bytes:
    """The CRC-32C of the data, turned and shifted as TensorFlow's records have it."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + CRC_MASK & 0xFFFFFFFF).to_bytes(SUM_BYTES, "little")


def record(data: bytes) -> bytes:
    """The data as a record."""
    size = len(data).to_bytes(SIZE_BYTES, "little")
    return b"".join((size, check_sum(size), data, check_sum(data)))


def records(stream: BinaryIO, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """The data of a file's records in their order, about BLOCK_BYTES at a time, with how many bytes were read for them.

    Raises EventFileError, which calls the file `name`, where it is of another type, damaged, or ends too early.
    """
    found: list[bytes] = []
    told, is_first = 0, True
    while head := stream.read(SIZE_BYTES + SUM_BYTES):
        try:
            data = _data(stream, head, name)
        except EventFileError:
            if is_first:
                raise alien(name) from None
            raise
        if data is not None:
            found.append(data)
        elif is_first:
            raise alien(name)
        is_first = False
        if stream.tell() - told >= BLOCK_BYTES:
            yield stream.tell() - told, found
            told, found = stream.tell(), []
    yield stream.tell() - told, found


def _data(stream: BinaryIO, head: bytes, name: str) -> bytes | None:
    """What stands behind a head; None for a record that is passed over. Nothing is read before the length is sure."""
    if len(head) < SIZE_BYTES + SUM_BYTES:
        raise _cut_off(name)
    if check_sum(head[:SIZE_BYTES]) != head[SIZE_BYTES:]:
        raise damaged(name)
    size = int.from_bytes(head[:SIZE_BYTES], "little")
    if size + SUM_BYTES > os.fstat(stream.fileno()).st_size - stream.tell():
        raise _cut_off(name)
    if size > LONGEST_RECORD:
        stream.seek(size + SUM_BYTES, os.SEEK_CUR)
        return None
    data, said = stream.read(size), stream.read(SUM_BYTES)
    if check_sum(data) != said:
        raise damaged(name)
    return data
