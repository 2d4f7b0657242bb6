"""An engine that isn't one: a loopback server that answers chats at the pace it is told. For tests of who asks it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER_SECONDS = 0.2


class PacedEngine:
    """`tokens_per_second()` is each client's pace; `status` other than 200 refuses, `waiting` requests are said to wait
    for a place. `asked`: the bodies, in order.
    `answered`: begin, end (time.monotonic) and tokens of each text.

    An answer has as many tokens as the pace gives in the time that it took, so a busy machine doesn't slow it down.
    """

    def __init__(self, tokens_per_second: Callable[[], float]) -> None:
        self.tokens_per_second = tokens_per_second
        self.status = 200
        self.waiting = 0
        self.asked: list[dict[str, Any]] = []
        self.answered: list[tuple[float, float, int]] = []
        self.tokens_sent: set[str] = set()
        self.port = 0

    def answer(self, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        """What it says to a question, and with which status."""
        self.asked.append(body)
        self.tokens_sent.add(token)
        if self.status != 200:
            return self.status, {"error": {"message": "broken"}}
        begin = time.monotonic()
        time.sleep(ANSWER_SECONDS)
        end = time.monotonic()
        tokens = round((end - begin) * self.tokens_per_second())
        self.answered.append((begin, end, tokens))
        usage = {"prompt_tokens": 9, "completion_tokens": tokens}
        return 200, {"choices": [{"message": {"content": "Ahoy."}, "finish_reason": "stop"}], "usage": usage}

    def tokens_between(self, begin: float, end: float) -> float:
        """The tokens that it gave between two times, by its own count."""
        parts = [(tokens / (last - first), min(last, end) - max(first, begin)) for first, last, tokens in self.answered]
        return sum(pace * seconds for pace, seconds in parts if seconds > 0)


@contextmanager
def running(engine: PacedEngine) -> Iterator[PacedEngine]:
    """The engine on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.tell(200, {"waiting": engine.waiting})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.tell(*engine.answer(body, self.headers.get("Authorization", "")))

        def tell(self, status: int, told: dict[str, Any]) -> None:
            answer = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_what: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    engine.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
