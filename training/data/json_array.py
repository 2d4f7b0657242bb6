"""One JSON array of objects, parsed as a stream. Runs in the `validate` job.

ijson's own `items` remembers the path of every level it is in, which takes gigabytes on a hundred thousand brackets;
so its plain events are used, and depth and size of an element are bounded here.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import ijson

from training.data.records import Record, UnreadableSourceError, as_row
from training.data.rows import LINE_LIMIT_BYTES

DEEPEST = 64
BLOCK_BYTES = 64 << 10
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonArrayReader:
    """Reads the elements of an array one by one; `counted` is the file below the stream."""

    place = "element"

    def __init__(
        self, stream: BinaryIO, counted: BinaryIO, name: str, element_limit_bytes: int = LINE_LIMIT_BYTES
    ) -> None:
        self._stream = stream
        self._counted = counted
        self._name = name
        self._limit = element_limit_bytes
        self._done = 0
        self._since_element = 0

    def records(self) -> Iterator[Record]:
        """An element each."""
        try:
            for value in self._elements():
                self._done += 1
                self._since_element = 0
                yield Record(self._done, as_row(value))
        except ijson.JSONError as error:
            raise UnreadableSourceError(
                f"{self._name} is a JSON array that can't be read beyond element {self._done}: {_first_line(error)}. "
                "Mend it there, or write it as one JSON object a line."
            ) from error

    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._counted.tell()

    def read(self, size: int) -> bytes:
        """Feeds the parser. Raises UnreadableSourceError where an element doesn't end."""
        block = self._stream.read(min(size, BLOCK_BYTES))
        self._since_element += len(block)
        if self._since_element > self._limit + BLOCK_BYTES:
            raise UnreadableSourceError(
                f"Element {self._done + 1} of {self._name} is longer than {self._limit:,} bytes. Split it, or leave it "
                "out."
            )
        return block

    def _elements(self) -> Iterator[Any]:
        self._skip_byte_order_mark()
        depth, builder = 0, ijson.ObjectBuilder()
        for event, value in ijson.basic_parse(self, use_float=True, buf_size=BLOCK_BYTES):
            if event in {"end_map", "end_array"}:
                depth -= 1
            if depth == 0:  # the array itself opens or closes
                depth += event == "start_array"
                continue
            builder.event(event, value)
            if event in {"start_map", "start_array"}:
                depth += 1
                self._check_depth(depth)
            if depth == 1 and event != "map_key":
                yield builder.value
                builder = ijson.ObjectBuilder()

    def _check_depth(self, depth: int) -> None:
        if depth > DEEPEST:
            raise UnreadableSourceError(
                f"Element {self._done + 1} of {self._name} nests more than {DEEPEST} levels deep. Write flat objects."
            )

    def _skip_byte_order_mark(self) -> None:
        peek = getattr(self._stream, "peek", None)
        if peek is not None and peek(3)[:3] == BYTE_ORDER_MARK:
            self._stream.read(3)


def _first_line(error: Exception) -> str:
    """The reason in ijson's message, without the picture of the place."""
    text = str(error).removeprefix("b'").removeprefix('b"')
    return text.replace("\\n", "\n").splitlines()[0].strip().rstrip(".")
