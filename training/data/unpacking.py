"""Gzip unpacked as a stream, with bombs stopped. Runs in the `validate` job.

A small file can hold terabytes of zeros. Two limits stop that: how many bytes come out at most, and how many times
more than went in; the ratio counts only once so much has come out that it could do harm.
"""

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from training.data.records import UnreadableSourceError

RATIO_FROM_BYTES = 64 << 20
"""Below this, rows that repeat each other may be packed as small as they like."""


@dataclass(frozen=True)
class Limits:
    """How much a packed file may become: in bytes, and as a multiple of its size."""

    most_bytes: int = 64 << 30
    most_ratio: int = 200

    def check(self, name: str, packed_bytes: int, unpacked_bytes: int) -> None:
        """Raises UnreadableSourceError beyond one of them."""
        if unpacked_bytes > self.most_bytes:
            raise UnreadableSourceError(
                f"{name} unpacks to more than {self.most_bytes:,} bytes. Split it, or raise the setting "
                "datasets.max_unpacked_bytes."
            )
        if unpacked_bytes > RATIO_FROM_BYTES and unpacked_bytes > self.most_ratio * packed_bytes:
            raise UnreadableSourceError(
                f"{name} unpacks to more than {self.most_ratio} times its size, as only a decompression bomb does. "
                "If its rows really repeat each other so much, upload it unpacked."
            )


class UnpackedStream(io.RawIOBase):
    """What a gzip file holds, as a raw stream to read from; `packed` stays the caller's."""

    def __init__(self, packed: BinaryIO, name: str, limits: Limits) -> None:
        self._packed = packed
        self._name = name
        self._limits = limits
        self._gzip = gzip.GzipFile(fileobj=packed, mode="rb")
        self._unpacked_bytes = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Fills a part of the buffer; 0 at the end. Raises UnreadableSourceError."""
        try:
            count = self._gzip.readinto(buffer)
        except EOFError as error:
            raise UnreadableSourceError(
                f"{self._name} is a gzip file that breaks off before its end. Pack it again, or upload it again."
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableSourceError(
                f"{self._name} is a gzip file that is damaged: {error}. Pack it again, or upload it again."
            ) from error
        self._unpacked_bytes += count
        self._limits.check(self._name, self._packed.tell(), self._unpacked_bytes)
        return count
