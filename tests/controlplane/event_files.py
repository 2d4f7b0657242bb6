"""Event files of TensorBoard for tests, written record by record with a CRC-32C of their own, bit by bit."""

import struct
from collections.abc import Iterable

Scalar = tuple[str, int, float, float]
"""tag, step, value, Unix seconds"""


def crc32c(data: bytes) -> int:
    """The CRC of the standard, without a table."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """The data as a record of TensorFlow's."""

    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(number: int) -> bytes:
    """A number as a protocol buffer has it; a negative one in ten bytes."""
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def sized(tag: int, data: bytes) -> bytes:
    """A field with a length."""
    return bytes([tag << 3 | 2]) + varint(len(data)) + data


def event(time: float, step: int, value: bytes) -> bytes:
    """An event with one value of a summary."""
    return b"\x09" + struct.pack("<d", time) + b"\x10" + varint(step) + sized(5, sized(1, value))


def simple(tag: str, value: float) -> bytes:
    """A scalar as PyTorch writes it."""
    return sized(1, tag.encode()) + b"\x15" + struct.pack("<f", value)


def tensor(tag: str, value: float) -> bytes:
    """A scalar as TensorFlow 2 writes it: a tensor without dimensions."""
    content = b"\x08\x01" + sized(2, b"") + sized(4, struct.pack("<f", value))
    return sized(1, tag.encode()) + sized(8, content)


def written(scalars: Iterable[Scalar]) -> bytes:
    """A whole file with these scalars."""
    version = record(b"\x09" + struct.pack("<d", 1.0) + sized(3, b"brain.Event:2"))
    return version + b"".join(record(event(time, step, simple(tag, value))) for tag, step, value, time in scalars)
