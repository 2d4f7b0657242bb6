"""Stand-ins for engines: small HTTP servers that are slow, full or die on demand. For what is the gateway's own doing;
what real engines do is tested with real ones.
"""

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
HOLD_SECONDS = 20


class StandIn:
    """`go_on` cleared: it answers nobody until it is set, in a stream after the second event.

    `dies`: "" never, "at once" before the first byte, "midway" after the second event. `status`: what it answers.
    `left` is set when whoever asked hung up while it answered nobody.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[dict[str, Any]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.left = threading.Event()
        self.dies = ""
        self.status = 200
        self.port = 0

    def events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of a stream, as an engine sends them that was asked for its usage."""
        head = {"id": "x", "model": body["model"]}
        texts = [{"content": ""}, {"content": f"{self.name} "}, {"content": "says"}, {"content": " so"}]
        choices = [{**head, "choices": [{"index": 0, "delta": delta}], "usage": None} for delta in texts]
        return [*choices, {**head, "choices": [], "usage": USAGE}]


@contextmanager
def running(*stand_ins: StandIn) -> Iterator[None]:
    """Each on a port of its own."""
    servers = [_serve(one) for one in stand_ins]
    try:
        yield
    finally:
        for one, server in zip(stand_ins, servers, strict=True):
            one.go_on.set()
            server.shutdown()
            server.server_close()


def _serve(engine: StandIn) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            engine.asked.append(body)
            if engine.dies == "at once":
                self._hang_up()
            elif body.get("stream") and engine.status == 200:
                self._stream(body)
            elif self._is_to_go_on():
                self._answer(body)

        def _is_to_go_on(self) -> bool:
            began = time.monotonic()
            while not engine.go_on.wait(0.02) and time.monotonic() - began < HOLD_SECONDS:
                if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                    engine.left.set()
                    self.close_connection = True
                    return False
            return True

        def _answer(self, body: dict[str, Any]) -> None:
            said = {"model": body["model"], "choices": [{"message": {"content": engine.name}}], "usage": USAGE}
            refused = {"error": {"message": "full", "code": "queue_full"}}
            content = json.dumps(said if engine.status == 200 else refused).encode()
            self.send_response(engine.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number, event in enumerate(engine.events(body)):
                if number == 2:
                    if not self._is_to_go_on():
                        return
                    if engine.dies == "midway":
                        self._hang_up()
                        return
                self._chunk(f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode())
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _hang_up(self) -> None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def log_message(self, *_what: object) -> None:
            """Quiet."""

    Handler.protocol_version = "HTTP/1.1"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    engine.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
