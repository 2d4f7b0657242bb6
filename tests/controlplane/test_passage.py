"""What had come of an answer before its engine broke off is passed on before that is told."""

import asyncio
from typing import Any

import aiohttp
import pytest

from controlplane.services.engine_http import end_connections, heed_breaks, session
from controlplane.services.passage import Source

CUT_OFF = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n4\r\nlate\r\n"
WHOLE = CUT_OFF + b"0\r\n\r\n"


async def answered(*said: bytes, waits: bool) -> tuple[list[bytes], bool]:
    """What is read of an engine that says this bit by bit and hangs up, and whether that was a break. `waits`: until
    then.
    """
    go_on = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in said:
            writer.write(piece)
            await writer.drain()
            await go_on.wait()
        writer.close()

    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    pieces = []
    try:
        answer = await session().get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        heed_breaks(answer)
        go_on.set()
        async with asyncio.timeout(20):
            while waits and answer.content.exception() is None:  # noqa: ASYNC110 - it rings no bell
                await asyncio.sleep(0.01)
        source = Source(answer)
        try:
            while piece := await asyncio.wait_for(source.read(), 20):
                pieces.append(piece)
        except aiohttp.ClientError as error:
            with pytest.raises(type(error)):
                await source.read()
            return pieces, True
        return pieces, False
    finally:
        await end_connections()
        server.close()


def test_what_came_before_the_break_is_told_before_it() -> None:
    assert asyncio.run(answered(CUT_OFF, waits=True)) == ([b"earlylate"], True)
    pieces, broke_off = asyncio.run(answered(CUT_OFF, waits=False))
    assert (b"".join(pieces), broke_off) == (b"earlylate", True)


def test_an_end_is_no_break() -> None:
    pieces, broke_off = asyncio.run(answered(WHOLE, waits=False))
    assert (b"".join(pieces), broke_off) == (b"earlylate", False)


@pytest.mark.parametrize("waits", [True, False])
def test_a_chunk_that_is_none_is_a_break(waits: bool) -> None:
    pieces, broke_off = asyncio.run(answered(CUT_OFF, b"zz\r\n", waits=waits))
    assert (b"".join(pieces), broke_off) == (b"earlylate", True)


def test_a_connection_that_is_used_again_remembers_no_answer() -> None:
    async def work() -> None:
        async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(CUT_OFF)
                await writer.drain()
                await go_on.acquire()
                writer.write(b"0\r\n\r\n")
            writer.close()

        go_on = asyncio.Semaphore(0)
        protocols: list[Any] = []
        server = await asyncio.start_server(engine, "127.0.0.1", 0)
        try:
            for _ in range(2):
                answer = await session().get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
                assert answer.connection is not None
                assert answer.connection.protocol is not None
                protocols.append(answer.connection.protocol)
                heed_breaks(answer)
                go_on.release()
                assert await answer.read() == b"earlylate"
            first, second = protocols
            assert first is second
            assert not first.closed._callbacks
        finally:
            await end_connections()
            server.close()

    asyncio.run(work())
