"""The samples of deploy/ in the real Caddy and nginx, before the real product: websocket, streams, uploads, login.

Only where they are installed. Each sample runs as it is shipped but for name, port and certificate.
"""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest
import websockets

from tests.product import CHECKOUT, Product, wait_for

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
Proxied = Callable[[int], str]
"""Starts the proxy before a port; returns its address."""


def caddy(folder: Path, port: int, upstream: int) -> list[str]:
    """Caddy's command on the sample."""
    text = (DEPLOY / "Caddyfile").read_text()
    text = text.replace("panel.example {", f"http://localhost:{port} {{\n\tbind 127.0.0.1", 1)
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{text}")
    return ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def nginx(folder: Path, port: int, upstream: int) -> list[str]:
    """nginx's command on the sample, without the server that leads from http to https."""
    text = (DEPLOY / "nginx.conf").read_text()
    text = re.sub(r"server \{\n    listen 80;.*?\n\}\n", "", text, flags=re.DOTALL)
    text = re.sub(r"\n    ssl_.*", "", text).replace("\n    listen [::]:443 ssl;", "")
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};").replace("panel.example", "localhost")
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    folders = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}{text}\n}}\n"
    )
    return ["-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


SAMPLES = {"caddy": caddy, "nginx": nginx}


@pytest.fixture(params=SAMPLES)
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    """Starts one of the proxies; it ends with the test."""
    program = shutil.which(request.param, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    started: list[subprocess.Popen[bytes]] = []

    def start(upstream: int) -> str:
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            port = probe.getsockname()[1]
        command = [program, *SAMPLES[request.param](tmp_path, port, upstream)]
        with (tmp_path / "console").open("wb") as console:
            environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
            started.append(subprocess.Popen(command, stdout=console, stderr=console, env=environment))

        def listens() -> bool:
            assert started[0].poll() is None, (tmp_path / "console").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(request.param, listens, 20)
        return f"http://localhost:{port}"

    yield start
    for process in started:
        process.terminate()
        process.wait(10)


@contextmanager
def answering_bit_by_bit(seen: Event) -> Iterator[int]:
    """A server whose second word comes only after the first was seen; the port that it listens on."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            connection.sendall(b"data: one\n\n")
            if seen.wait(20):
                connection.sendall(b"data: two\n\n")

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        seen.set()
        thread.join(5)


def test_a_token_goes_out_as_it_comes(proxied: Proxied) -> None:
    seen = Event()
    with answering_bit_by_bit(seen) as upstream:
        address = proxied(upstream)
        words = []
        with httpx.stream("GET", f"{address}/v1/stream", timeout=20, trust_env=False) as answer:
            for line in answer.iter_lines():
                words.append(line)
                seen.set()  # only now the second word is sent
    assert [word for word in words if word] == ["data: one", "data: two"]


def test_the_product_behind_a_proxy(proxied: Proxied, product: Product) -> None:
    """Login by form (with its Origin), a websocket with the session, a part of an upload, a body that is too large."""
    address = proxied(int(product.url.rpartition(":")[2]))
    with httpx.Client(base_url=address, timeout=60, trust_env=False, follow_redirects=True) as browser:
        _log_in(browser, product)
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        assert "subscribe" in asyncio.run(_answer_to_nonsense(address, cookies))["error"]
    with httpx.Client(base_url=address, headers={"X-API-Key": product.keys["use"]}, timeout=60, trust_env=False) as api:
        upload = api.post("/api/uploads", json={"filename": "a.jsonl", "bytes": 8 << 20}).raise_for_status().json()
        part = api.put(f"/api/uploads/{upload['id']}/parts/1", content=b"x" * (4 << 20))
        assert part.status_code == 200, part.text
        assert api.delete(f"/api/uploads/{upload['id']}").status_code < 300
        assert api.post("/api/datasets", content=b"x" * (40 << 20)).status_code == 413


def test_what_a_proxy_says_of_the_client_is_believed_only_where_it_was_told_to(product: Product) -> None:
    """A second web server on the same home, which was told; the first was not, and a client could make headers up."""
    headers = {"X-API-Key": product.keys["admin"], "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    command = [sys.executable, "manage.py", "serve", "--no-dispatch", "--port", "0"]
    environment = {**product.environment, "PILOTHOUSE_BEHIND_PROXY": "yes"}
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True) as told:
        try:
            assert told.stdout is not None
            addresses = {product.url: "127.0.0.1", told.stdout.readline().split()[-1]: "203.0.113.9"}
            for url, address in addresses.items():
                with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
                    cookie = client.get("/login").headers["set-cookie"]
                    client.put("/api/settings/alerts.keep_days", json={"value": 90}).raise_for_status()
                (line,) = product.rows("SELECT address FROM controlplane_auditline ORDER BY id DESC LIMIT 1")
                assert line == (address,)
                assert ("Secure" in cookie) is (address == "203.0.113.9")
        finally:
            told.terminate()


def _log_in(browser: httpx.Client, product: Product) -> None:
    form = browser.get("/login")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
    assert token
    fields = {"username": "use", "password": product.password, "csrfmiddlewaretoken": token[1]}
    answer = browser.post("/login", data=fields, headers={"Origin": str(browser.base_url).rstrip("/")})
    assert (answer.status_code, answer.url.path) == (200, "/"), answer.text[:500]


async def _answer_to_nonsense(address: str, cookies: str) -> dict[str, str]:
    headers = {"Cookie": cookies, "Origin": address}
    async with websockets.connect(f"ws{address.removeprefix('http')}/ws/live", additional_headers=headers) as live:
        await live.send("{}")  # whoever isn't logged in gets no answer at all
        frame: dict[str, str] = json.loads(await asyncio.wait_for(live.recv(), 20))
    return frame
