"""Where alerts arrive in tests: a web hook and a mail server. Real servers on the loopback, that keep what they get."""

import email
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import default
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
    with _serving(server):
        try:
            yield receiver
        finally:
            receiver.over.set()


@contextmanager
def mail_arriving() -> Iterator[tuple[int, list[EmailMessage]]]:
    """The port of a mail server that takes everything, and what it has taken, for as long as the block lasts."""
    mails: list[EmailMessage] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 ready")
            for line in self.rfile:
                word = line[:4].upper()
                if word == b"EHLO":
                    self.say("250-here\r\n250 AUTH PLAIN")
                elif word == b"AUTH":
                    self.say("235 welcome")
                elif word == b"DATA":
                    self.say("354 go on")
                    mails.append(email.message_from_bytes(self.whole(), policy=default))
                    self.say("250 taken")
                elif word == b"QUIT":
                    return self.say("221 bye")
                else:
                    self.say("250 fine")
            return None

        def whole(self) -> bytes:
            lines = iter(self.rfile.readline, b".\r\n")
            return b"".join(line[1:] if line.startswith(b"..") else line for line in lines)

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server, _serving(server):
        yield server.server_address[1], mails


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[None]:
    """The server serves in a thread, and looks often whether it may end."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
