"""What can't be told to end holds up no server's end: a view's thread, a bridge on its way into a cluster."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.fleet import ray
from tests.product import CHECKOUT

SERVER = """
import asyncio, os, socket, time
from twisted.internet import asyncioreactor
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from controlplane.api import pace

pace.CLOSE_SECONDS = 0.2

def view():
    print("begun", flush=True)
    time.sleep(600)

async def application(scope, receive, send):
    await receive()
    async with ThreadSensitiveContext():  # as Django does for each request
        await sync_to_async(view)()

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(8)
listener.setblocking(False)
print(listener.getsockname()[1], flush=True)
pace.PacedServer(application=application, endpoints=[f"fd:fileno={listener.fileno()}"], http_timeout=None).run()
os._exit(0)
"""


def test_a_request_under_way_holds_up_the_servers_end_for_a_while_only() -> None:
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                assert server.stdout.readline() == "begun\n"
                server.send_signal(signal.SIGINT)
                assert server.wait(60) == 0
        finally:
            server.kill()


def test_a_bridge_that_is_still_on_its_way_does_not_outlive_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "MEMBERS_SECONDS", 0.1)
    bridge = ray.RayBridge("127.0.0.1:1", tmp_path)
    deaf = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.PIPE, text=True)
    monkeypatch.setattr(bridge, "_process", deaf)
    bridge.close()
    assert deaf.poll() == -signal.SIGKILL
