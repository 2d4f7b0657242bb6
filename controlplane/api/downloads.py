"""Files as answers. Runs in the web process."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, BinaryIO

from channels.db import database_sync_to_async
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header

BLOCK_BYTES = 256 << 10


def download(file: BinaryIO, filename: str, content_type: str) -> StreamingHttpResponse:
    """The answer that a client stores as `filename`; it closes the file."""
    return in_pieces(_blocks(file), os.fstat(file.fileno()).st_size, filename, content_type)


def in_pieces(pieces: Iterator[bytes], size: int, filename: str, content_type: str) -> StreamingHttpResponse:
    """The same of bytes that are made or fetched as they are sent, `size` in all."""
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": content_disposition_header(True, filename) or "attachment",
    }
    return StreamingHttpResponse(_sent(pieces), content_type=content_type, headers=headers)


def written(pieces: Iterator[bytes], filename: str, content_type: str) -> StreamingHttpResponse:
    """The answer that a client stores as `filename`, written while it goes: its pieces ask the data base."""
    headers = {"Content-Disposition": content_disposition_header(True, filename) or "attachment"}
    return StreamingHttpResponse(_sent(pieces, _asking), content_type=content_type, headers=headers)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK_BYTES):
            yield block


async def _sent(
    pieces: Iterator[bytes], in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread
) -> AsyncIterator[bytes]:
    """Piece by piece from a thread: under ASGI, Django would read a FileResponse into memory as a whole."""
    try:
        while (piece := await in_thread(next, pieces, None)) is not None:
            yield piece
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


async def _asking(step: Callable[..., Any], *arguments: Any) -> Any:
    """In the thread whose data base connection is looked after."""
    return await database_sync_to_async(step)(*arguments)
