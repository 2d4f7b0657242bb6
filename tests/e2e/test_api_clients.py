"""Clients of the API on the real product and a real engine: OpenAI's, curl as the guide writes it, old ones, bad ones.

One engine of the model `tiny` serves all of them; each bad request is followed by a good one.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AuthenticationError, BadRequestError, NotFoundError, OpenAI, PermissionDeniedError

from tests.product import CHECKOUT, Product, wait_for

pytestmark = pytest.mark.slow
GUIDE = CHECKOUT / "docs" / "remote-inference.md"
QUESTION: Any = [{"role": "user", "content": "What is the anchor for?"}]
GREEDY: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def serving(product: Product) -> Product:
    """The product, with `tiny` active."""
    with product.client("admin", timeout=300) as client:
        answer = client.post("/api/models/set_active", json={"id": "tiny"})
    assert answer.status_code == 200, f"{answer.text}\n{product.logs()}"
    return product


@pytest.fixture(scope="module")
def use(serving: Product) -> Iterator[httpx.Client]:
    """A client that may work."""
    with serving.client("use") as client:
        yield client


@pytest.fixture(scope="module")
def greedy(use: httpx.Client) -> str:
    """What the engine answers to QUESTION at temperature 0."""
    return answer_of(use)


def answer_of(client: httpx.Client) -> str:
    """Asks QUESTION at temperature 0."""
    answer = client.post("/v1/chat/completions", json=GREEDY)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def running(client: httpx.Client) -> int:
    """How many requests the active engine works on, by its own figures."""
    rows = client.get("/api/deployments").json()["deployments"]
    return sum(row["statistics"].get("running", 0) for row in rows if row["is_active"])


# --- OpenAI's client --------------------------------------------------------------------------------------------------


def openai(serving: Product, key: str = "use") -> OpenAI:
    """OpenAI's client with somebody's key."""
    return OpenAI(base_url=f"{serving.url}/v1", api_key=serving.keys.get(key, key), max_retries=0, timeout=60)


def test_openais_client_chats_and_streams(serving: Product, greedy: str) -> None:
    client = openai(serving)
    whole = client.chat.completions.create(**GREEDY)
    assert whole.choices[0].message.content == greedy
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == GREEDY["max_tokens"]
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == greedy
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_openais_client_completes_text(serving: Product) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": ["The sail", "The map"], "max_tokens": 5, "temperature": 0}
    whole = openai(serving).completions.create(**options)
    assert [choice.index for choice in whole.choices] == [0, 1]
    pieces = ["", ""]
    for chunk in openai(serving).completions.create(**options, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == [choice.text for choice in whole.choices]


def test_openais_client_lists_models(serving: Product) -> None:
    client = openai(serving, "read")
    listed = [model.id for model in client.models.list()]
    assert listed[0] == "tiny", "the active one comes first"
    assert client.models.retrieve("tiny").owned_by == "pilothouse"


def test_openais_client_knows_our_errors_by_their_classes(serving: Product) -> None:
    with pytest.raises(AuthenticationError) as unknown_key:
        openai(serving, "ph_wrong").models.list()
    assert unknown_key.value.code == "invalid_api_key"
    with pytest.raises(PermissionDeniedError):
        openai(serving, "read").chat.completions.create(**GREEDY)
    asking: list[Callable[[OpenAI], Any]] = [
        lambda client: client.chat.completions.create(**{**GREEDY, "model": "none/such"}),
        lambda client: client.models.retrieve("none/such"),
    ]
    for ask in asking:
        with pytest.raises(NotFoundError) as unknown_model:
            ask(openai(serving))
        assert (unknown_model.value.code, unknown_model.value.param) == ("model_not_found", "model")
        assert "tiny" in unknown_model.value.message, "it names those that there are"
    with pytest.raises(BadRequestError) as bad:
        openai(serving).chat.completions.create(**{**GREEDY, "max_tokens": 0})
    assert bad.value.param == "max_tokens"
    with pytest.raises(BadRequestError) as long:
        openai(serving).completions.create(model="tiny", prompt="keel " * 5000)
    assert "1024" in long.value.message
    with pytest.raises(APIStatusError) as large:
        openai(serving).completions.create(model="tiny", prompt="x" * (10 << 20))
    assert large.value.status_code == 413


# --- Bad input --------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, int, str | None]] = {
    "malformed": (b'{"messages": [', 400, None),
    "no object": (b"[1, 2]", 400, None),
    "not UTF-8": (b'{"model": "\xff"}', 400, None),
    "nested": (b"[" * 100_000, 400, None),
    "wrong type": ({**GREEDY, "messages": "Hello"}, 400, "messages"),
    "unknown model": ({**GREEDY, "model": "none"}, 404, "model"),
    "no tokens": ({**GREEDY, "max_tokens": 0}, 400, "max_tokens"),
    "negative tokens": ({**GREEDY, "max_tokens": -1}, 400, "max_tokens"),
    "NaN": (json.dumps({**GREEDY, "temperature": float("nan")}).encode(), 400, "temperature"),
    "infinite": (json.dumps(GREEDY).replace('"temperature": 0', '"temperature": 1e999').encode(), 400, "temperature"),
    "half a character": (
        json.dumps(GREEDY).replace("anchor", "\\ud83d").encode(), 400, "messages.0.content",
    ),
    "a thousand stops": ({**GREEDY, "stop": [f"stop {number}" for number in range(1000)]}, 400, "stop"),
    "unknown option": ({**GREEDY, "frobnicate": 1}, 400, "frobnicate"),
    "10 MB": ({**GREEDY, "messages": [{"role": "user", "content": "x" * (10 << 20)}]}, 413, None),
    "40 MB": (b'{"messages": "' + b"x" * (40 << 20) + b'"}', 413, None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "status", "param"), BAD.values(), ids=BAD)
def test_bad_input_is_told_and_the_next_request_is_served(
    use: httpx.Client, greedy: str, body: Any, status: int, param: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = use.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert answer_of(use) == greedy


def test_a_client_that_vanishes_in_mid_stream_frees_its_place(use: httpx.Client, greedy: str) -> None:
    body = {**GREEDY, "max_tokens": 900, "stream": True}
    with use.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert next(answer.iter_bytes())
    wait_for("the place to be free", lambda: running(use) == 0)
    assert answer_of(use) == greedy


# --- Generate ---------------------------------------------------------------------------------------------------------


def test_a_generation_that_is_waited_for_is_what_a_chat_answers(use: httpx.Client, greedy: str) -> None:
    wanted = {"prompt": QUESTION[0]["content"], "model_id": "tiny", "max_tokens": 12, "temperature": 0, "wait": True}
    done = use.post("/api/generate", json=wanted)
    assert done.status_code == 200, done.text
    told = done.json()
    assert (told["text"], told["status"], told["finish_reason"]) == (greedy, "done", "length")
    assert told["usage"]["completion_tokens"] == 12
    job = use.get(f"/api/jobs/{told['job_id']}").json()
    assert (job["type"], job["result"]["text"]) == ("generate", greedy)


def test_a_generation_that_cannot_be_answered_is_bad_input(use: httpx.Client) -> None:
    refused = use.post("/api/generate", json={"prompt": "keel " * 5000, "wait": True})
    assert refused.status_code == 422, refused.text
    assert "1024" in refused.json()["detail"]


def test_cancelling_and_going_away_end_generations_at_once(use: httpx.Client, greedy: str) -> None:
    long = {"prompt": QUESTION[0]["content"], "max_tokens": 900}
    queued = [use.post("/api/generate", json=long).json()["job_id"] for _ in range(4)]
    with pytest.raises(httpx.ReadTimeout):  # the four fill the places of generations
        use.post("/api/generate", json={**long, "wait": True}, timeout=3)
    waited = use.get("/api/jobs?type=generate&limit=1").json()["jobs"][0]["id"]
    assert waited not in queued
    for job_id in queued:
        assert use.post(f"/api/jobs/{job_id}/cancel").status_code == 200

    def are_cancelled() -> bool:
        jobs = [use.get(f"/api/jobs/{job_id}").json() for job_id in (*queued, waited)]
        return all(job["status"] == "cancelled" for job in jobs)

    wait_for("their end", are_cancelled)
    wait_for("the places to be free", lambda: running(use) == 0)
    assert answer_of(use) == greedy


# --- The old port -----------------------------------------------------------------------------------------------------


def test_the_old_port_serves_the_api_without_its_prefix(serving: Product, greedy: str) -> None:
    with serving.client("use", base_url=serving.legacy_url) as old:
        assert httpx.get(f"{serving.legacy_url}/health").json() == {"status": "ok"}
        assert old.get("/health").json()["active_model"] == "tiny"
        assert old.get("/models/tiny").json()["is_active"] is True
        assert old.get("/api/models/tiny").json()["is_active"] is True
        assert answer_of(old) == greedy
        for path in ("/runs/no/such", "/"):
            assert set(old.get(path).json()) == {"detail"}
        assert httpx.get(f"{serving.legacy_url}/models").status_code == 401


# --- The guide --------------------------------------------------------------------------------------------------------

CURL = 'curl() { command curl --no-progress-meter -w "%{stderr}%{http_code} " "$@" || echo "failed: $*" >&2; }\n'


def examples() -> list[str]:
    """The guide's shell examples, but for the one that makes a key."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "manage.py" not in block]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_guides_examples_work(serving: Product, tiny_model: Path, greedy: str) -> None:
    script = "\n".join(examples())
    stands_for = {"http://127.0.0.1:8765": serving.legacy_url, "/srv/models/mine": str(tiny_model), "my-model": "tiny"}
    for example, real in stands_for.items():
        assert example in script
        script = script.replace(example, real)
    environment = {**serving.environment, "API": f"{serving.url}/api", "KEY": serving.keys["admin"]}
    done = subprocess.run(
        ["/bin/sh", "-c", CURL + script], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    statuses = re.findall(r"\b\d{3}\b", done.stderr)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    assert len(statuses) >= script.count("curl -s")
    refused = [status for status in statuses if int(status) >= 400]
    assert refused == ["409"], f"setting power without a GPU alone is refused: {done.stderr}\n{done.stdout[-3000:]}"
    wait_for("the engine that was reloaded", lambda: _settled(serving), 240)
    with serving.client("use") as client:
        assert answer_of(client) == greedy
        rows = client.get("/api/deployments").json()["deployments"]
    told = next(row["runs_with"] for row in rows if row["is_active"])
    assert told["chosen"] == {"prefix_cache_mib": 512, "drain_seconds": 30}, "the engine took what the guide has set"


def _settled(serving: Product) -> bool:
    with serving.client("read") as client:
        rows = client.get("/api/deployments").json()["deployments"]
    return not any(row["status"] in ("starting", "checking", "draining") for row in rows)
