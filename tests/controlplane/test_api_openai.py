"""The OpenAI surface: models, refusals in OpenAI's shape, answers and streams of an engine, a client that goes away.

The engine is a small HTTP server of the test's own: what is judged here is the way there and back.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.test import AsyncClient, Client

from tests import factories

Communicator: Any = ApplicationCommunicator  # untyped
urls = pytest.mark.urls("controlplane.api.urls")
JSON = "application/json"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


class Engine:
    """An engine that answers what the test says, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.answer: dict[str, Any] = {"object": "chat.completion"}
        self.extra: dict[str, str] = {}
        self.go_on = threading.Event()
        self.go_on.set()
        self.broken = threading.Event()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine.asked.append({"path": self.path, **body})
                engine.headers.append(dict(self.headers))
                if body.get("stream"):
                    engine.stream(self)
                    return
                content = json.dumps(engine.answer).encode()
                self.send_response(engine.status)
                for name, value in {"Content-Type": JSON, **engine.extra}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        try:
            for index in range(1000):
                handler.wfile.write(f'data: {{"index": {index}}}\n\n'.encode())
                if index == 2:
                    self.go_on.wait(20)
                if index == 4 and self.go_on.is_set() and not self.broken.is_set() and self.short:
                    handler.wfile.write(b"data: [DONE]\n\n")
                    return
        except OSError:
            self.broken.set()

    short = True


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A running engine."""
    engine = Engine()
    yield engine
    engine.go_on.set()
    engine.server.shutdown()
    engine.server.server_close()


@urls
@pytest.mark.django_db
def test_the_ready_models_are_listed_the_active_first() -> None:
    active = factories.make_model("Qwen/Qwen3-0.6B")
    factories.make_model("newer")
    factories.make_model("coming", state="fetching")
    factories.make_deployment(active, is_active=True)
    client = factories.make_client("read")
    for prefix in ("/v1", "/api/v1"):
        answer = client.get(f"{prefix}/models").json()
        assert answer["object"] == "list"
        assert [model["id"] for model in answer["data"]] == ["Qwen/Qwen3-0.6B", "newer"]
        assert client.get(f"{prefix}/models/Qwen/Qwen3-0.6B").json() == answer["data"][0]
    assert answer["data"][0] == {
        "id": "Qwen/Qwen3-0.6B", "object": "model", "created": int(active.created_at.timestamp()),
        "owned_by": "pilothouse",
    }  # fmt: skip
    for name in ("coming", "no/such"):
        refused = client.get(f"/v1/models/{name}")
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "model_not_found"


@urls
@pytest.mark.django_db
def test_refusals_have_openais_shape() -> None:
    nobody = Client().post("/v1/chat/completions", CHAT, content_type=JSON)
    assert nobody.status_code == 401
    assert nobody.json()["error"]["code"] == "invalid_api_key"
    reader = factories.make_client("read").post("/v1/chat/completions", CHAT, content_type=JSON)
    assert reader.status_code == 403
    assert reader.json()["error"]["type"] == "permission_error"


@urls
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("body", "param"), [(b"{", None), (b"[]", None), (b'{"model": 3}', "model"), (b'{"stream": "yes"}', "stream")]
)
def test_a_body_that_cannot_be_is_400_and_names_the_option(body: bytes, param: str | None) -> None:
    response = factories.make_client("use").post("/v1/chat/completions", body, content_type=JSON)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@urls
@pytest.mark.django_db(transaction=True)
def test_without_an_engine_the_answer_is_503_with_the_time_to_ask_again() -> None:
    client = factories.make_client("use")
    factories.make_model("idle")
    for body in (CHAT, {**CHAT, "model": "idle"}):
        response = client.post("/v1/chat/completions", body, content_type=JSON)
        assert response.status_code == 503
        assert int(response["Retry-After"]) > 0
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    unknown = client.post("/v1/chat/completions", {**CHAT, "model": "no/such"}, content_type=JSON)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


@urls
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_an_answer_comes_through_as_the_engine_gives_it(engine: Engine, path: str) -> None:
    model = factories.make_model("Qwen/Qwen3-0.6B")
    factories.make_deployment(model, is_active=True, port=engine.port)
    engine.answer = {"choices": [{"text": "ä"}]}
    body = {**CHAT, "temperature": 0.5, "max_tokens": 7}
    response = factories.make_client("use").post(f"/v1/{path}", body, content_type=JSON)
    assert response.status_code == 200, response.content
    assert response.json() == engine.answer
    assert engine.asked == [{"path": f"/v1/{path}", "model": "Qwen/Qwen3-0.6B", **body}]
    assert engine.headers[0]["Authorization"].startswith("Bearer ")
    assert "X-API-Key" not in engine.headers[0]


@urls
@pytest.mark.django_db(transaction=True)
def test_a_refusal_of_the_engine_comes_through(engine: Engine) -> None:
    factories.make_deployment(is_active=True, port=engine.port)
    engine.status, engine.extra = 503, {"Retry-After": "3"}
    engine.answer = {"error": {"message": "busy", "type": "server_error", "param": None, "code": "queue_full"}}
    response = factories.make_client("use").post("/v1/chat/completions", CHAT, content_type=JSON)
    assert (response.status_code, response["Retry-After"]) == (503, "3")
    assert response.json() == engine.answer


@urls
@pytest.mark.django_db(transaction=True)
def test_tokens_stream_through_as_they_come(engine: Engine) -> None:
    asyncio.run(_stream(engine, _key_and_deployment(engine)))


async def _stream(engine: Engine, key: str) -> None:
    engine.go_on.clear()
    response: Any = await AsyncClient().post(
        "/v1/chat/completions", {**CHAT, "stream": True}, content_type=JSON, headers={"X-API-Key": key}
    )
    assert response["Content-Type"] == "text/event-stream"
    chunks: AsyncIterator[bytes] = aiter(response.streaming_content)
    early = b""
    while b'"index": 2' not in early:  # the engine waits behind this one until it is told to go on
        early += await asyncio.wait_for(anext(chunks), 10)
    engine.go_on.set()
    whole = early + b"".join([chunk async for chunk in chunks])
    assert whole.endswith(b"data: [DONE]\n\n")
    assert whole.count(b"data: ") == 6


@urls
@pytest.mark.django_db(transaction=True)
def test_a_client_that_goes_away_ends_the_engines_stream(engine: Engine) -> None:
    asyncio.run(_go_away(engine, _key_and_deployment(engine)))


async def _go_away(engine: Engine, key: str) -> None:
    engine.short = False
    engine.go_on.clear()
    body = json.dumps({**CHAT, "stream": True}).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "root_path": "", "scheme": "http",
        "query_string": b"", "server": ("localhost", 80), "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), (b"x-api-key", key.encode()), (b"content-type", b"application/json")],
    }  # fmt: skip
    communicator: Any = Communicator(get_asgi_application(), scope)
    await communicator.send_input({"type": "http.request", "body": body, "more_body": False})
    start = await communicator.receive_output(10)
    assert start["status"] == 200
    assert (await communicator.receive_output(10))["body"]
    await communicator.send_input({"type": "http.disconnect"})
    await communicator.wait(10)
    engine.go_on.set()
    assert await asyncio.to_thread(engine.broken.wait, 10), "the engine could still write: nobody closed its stream"


def _key_and_deployment(engine: Engine) -> str:
    factories.make_deployment(factories.make_model("m"), is_active=True, port=engine.port)
    return factories.make_key("use")
