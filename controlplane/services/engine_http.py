"""How engines are asked: plain HTTP, on this machine. Runs in the web process.

Threads ask with httpx. What passes through the server's loop goes by aiohttp, whose parser is written in C: a token on
its way to a client costs a tenth of httpx's time there, and there are many.
"""

import asyncio
import functools
import ssl

import aiohttp
import httpx

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A client with it trusts no TLS server at all, and needn't read the list of authorities, which takes 20 ms."""

CONNECT_TIMEOUT_SECONDS = 5
ANSWER_TIMEOUT_SECONDS = 600
KEEP_SECONDS = 3.0
"""How long an idle connection is used again: less than the five seconds after which an engine closes it."""

LEFT_OUT = ("Accept-Encoding", "User-Agent")
"""Headers that aiohttp would send by itself: an answer is wanted as it is, not packed."""


@functools.cache
def client() -> httpx.Client:
    """The client of all threads, with its kept connections; give each call its own `timeout`."""
    return httpx.Client(trust_env=False, verify=NO_TLS)


_sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}


def session() -> aiohttp.ClientSession:
    """One client, with its kept connections, for each event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _sessions:
        _sessions[loop] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_SECONDS),
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=ANSWER_TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, skip_auto_headers=LEFT_OUT,
        )  # fmt: skip
    return _sessions[loop]


def heed_breaks(answer: aiohttp.ClientResponse) -> None:
    """Whoever reads the answer is told when its connection ends before it does.

    aiohttp closes the connection of an engine that sends no proper chunk, and tells nobody: they would wait for ever.
    """
    content = answer.content

    def tell(_closed: object = None) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError())

    if answer.connection is None or answer.connection.protocol is None:  # it is whole already
        return
    closed = answer.connection.protocol.closed
    if closed is None:
        tell()
        return
    closed.add_done_callback(tell)

    def forget() -> None:  # the connection is used again
        closed.remove_done_callback(tell)

    content.on_eof(forget)


async def end_connections() -> None:
    """Closes what is kept for this event loop, which is about to end, and for those that have ended without a word."""
    this = asyncio.get_running_loop()
    for loop in [loop for loop in _sessions if loop is this or loop.is_closed()]:
        await _sessions.pop(loop).close()
