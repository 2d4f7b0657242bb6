"""The limit on bodies: inside a real daphne, before the body is read; and around any ASGI application."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.api.limits import MAX_BODY_BYTES, BodyLimit

CHECKOUT = Path(__file__).resolve().parents[2]
SERVER = """
import asyncio, sys
from twisted.internet import asyncioreactor
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)
from daphne.server import Server
from controlplane.api.bodies import limit_bodies

async def application(scope, receive, send):
    received = 0
    while True:
        message = await receive()
        received += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(received).encode()})

limit_bodies()
Server(application, [f"fd:fileno={sys.argv[1]}"], signal_handlers=True,
       ready_callable=lambda: print("ready", flush=True)).run()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, int]]:
    """A daphne with the limit: (port, pid)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        number = listener.fileno()
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "controlplane.settings"}
        script = "import django; django.setup()\n" + SERVER
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(number)], cwd=CHECKOUT, env=environment, pass_fds=[number],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield port, process.pid
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()


def connect(port: int, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(f"{head}\r\nHost: x\r\n\r\n".encode())
    return connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of an answer with `Connection: close` or a content length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line.lower()), None)
    while length is not None and len(body) < length:
        body += connection.recv(65536)
    return int(head.split()[1]), body


@pytest.mark.parametrize("expect", ["", "\r\nExpect: 100-continue"])
def test_a_large_body_is_refused_on_its_headers(server: tuple[int, int], expect: str) -> None:
    head = f"POST /api/datasets HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x{expect}"
    with connect(server[0], f"{head}\r\nContent-Length: {300 << 20}") as connection:
        status, body = answer(connection)  # nothing of the body has been sent
    assert status == 413
    assert "POST /api/uploads" in json.loads(body)["detail"]


def test_a_client_that_sends_on_gets_its_answer_and_costs_no_memory(server: tuple[int, int]) -> None:
    process = psutil.Process(server[1])
    before = process.memory_info().rss
    head = "POST /api/datasets HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x"
    sent, block = 0, b"x" * (1 << 20)
    with connect(server[0], f"{head}\r\nContent-Length: {100 << 20}") as connection:
        while sent < 100 << 20:
            connection.sendall(block)
            sent += len(block)
        assert answer(connection)[0] == 413
        connection.settimeout(20)
        assert connection.recv(1) == b"", "the server leaves a refused connection open"
    assert process.memory_info().rss - before < 20 << 20


def test_a_chunked_body_is_counted(server: tuple[int, int]) -> None:
    block = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    with connect(server[0], "POST /api/datasets HTTP/1.1\r\nTransfer-Encoding: chunked") as connection:
        for _ in range((MAX_BODY_BYTES >> 20) + 2):
            connection.sendall(block)
        assert answer(connection)[0] == 413


def test_a_form_below_the_limit_is_left_to_the_application_and_small_in_memory(server: tuple[int, int]) -> None:
    process = psutil.Process(server[1])
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + b"y" * (32 << 20)
        + b"\r\n--x--\r\n"
    )
    before = process.memory_info().rss
    head = "POST /api/datasets HTTP/1.1\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x"
    with connect(server[0], f"{head}\r\nContent-Length: {len(body)}") as connection:
        connection.sendall(body)
        status, told = answer(connection)
        while piece := connection.recv(65536):
            told += piece
    assert status == 200
    assert str(len(body)).encode() in told
    assert process.memory_info().rss - before < 100 << 20


def test_connections_go_on_after_a_refusal(server: tuple[int, int]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with connect(server[0], "GET / HTTP/1.1\r\nConnection: close") as connection:
            if answer(connection)[0] == 200:
                return
    pytest.fail("the server answers no more")


@pytest.mark.parametrize(
    ("length", "status"), [(str(MAX_BODY_BYTES + 1), 413), (str(MAX_BODY_BYTES), 200), ("9" * 40, 413), ("x", 200)]
)
def test_around_any_application(length: str, status: int) -> None:
    sent: list[Any] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body was read")

    scope = {"type": "http", "headers": [(b"content-length", length.encode())]}
    asyncio.run(BodyLimit(application)(scope, receive, send))
    assert sent[0]["status"] == status
