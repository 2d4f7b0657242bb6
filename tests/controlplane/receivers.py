"""A web hook of the tests' own: what was sent to it, and how it answers. A real HTTP server on the loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Takes messages. `status`: what it answers; `hangs`: it answers nothing at all until the test ends."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.status = 200
        self.hangs = False
        self.paths: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Its address as a route; the path is its secret."""
        return f"json://127.0.0.1:{self.port}/hook/very-secret-path"

    @property
    def titles(self) -> list[str]:
        """The titles of what it has taken, in order."""
        return [message["title"] for message in self.messages]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if receiver.hangs:
                receiver.over.wait(60)
                return
            receiver.paths.append(self.path)
            if receiver.status == 200:
                receiver.messages.append(body)
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
