"""A hub on this machine: enough of the Hugging Face HTTP API that the real library downloads a model from it.

Stands for the network alone. Holds repositories as folders; can ask for a token, be gated, fail, alter a file, or hold
a large file back after its first half.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

LARGE_BYTES = 100_000
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the test decides and what it can look at afterwards."""

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str | None = None
    status: int | None = None
    altered: set[str] = field(default_factory=set)
    hold_back: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    downloads: Counter[str] = field(default_factory=Counter)
    tokens_seen: set[str | None] = field(default_factory=set)
    url: str = ""


@contextmanager
def serving() -> Iterator[FakeHub]:
    """The hub, listening on a free loopback port while the block runs."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        hub, parts = self.hub, [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        authorization = self.headers.get("Authorization")
        hub.tokens_seen.add(authorization.removeprefix("Bearer ") if authorization else None)
        is_api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if is_api else parts[0:2])
        if hub.status is not None:
            self._send(hub.status, b"", with_body=with_body)
        elif hub.token is not None and authorization != f"Bearer {hub.token}":
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)
        elif repository not in hub.repositories:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)
        elif repository in hub.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, with_body=with_body)
        elif is_api and (parts[4:] or ["revision", "main"]) in (["revision", "main"], ["revision", COMMIT]):
            self._send(200, json.dumps(self._info(repository)).encode(), with_body=with_body)
        elif is_api and parts[4:5] == ["revision"]:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, with_body=with_body)
        elif not is_api and parts[2:3] == ["resolve"]:
            self._send_file(hub.repositories[repository] / "/".join(parts[4:]), with_body=with_body)
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)

    def _info(self, repository: str) -> dict[str, Any]:
        siblings = []
        folder = self.hub.repositories[repository]
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            data = path.read_bytes()
            sibling: dict[str, Any] = {"rfilename": str(path.relative_to(folder)), "size": len(data)}
            if len(data) > LARGE_BYTES:
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}

    def _send_file(self, path: Path, *, with_body: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if path.name in self.hub.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if with_body:
            self.hub.downloads[path.name] += 1
        self._send(200, data, headers, with_body=with_body, hold_back=path.name in self.hub.hold_back)

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        with_body: bool,
        hold_back: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        half = len(data) // 2 if hold_back else len(data)
        try:
            self.wfile.write(data[:half])
            self.wfile.flush()
            if hold_back:
                self.hub.released.wait()
                self.wfile.write(data[half:])
        except OSError:
            self.close_connection = True  # the client has gone, as a test wanted

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
