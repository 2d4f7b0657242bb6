"""Engines of the real product under load: one of two is killed, the active model is switched; clients go on.

Engines that are killed are the test's own; the active model is the same again afterwards.
"""

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.product import Product, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CLIENTS, EACH = 4, 3
QUESTION = [{"role": "user", "content": "What is the anchor for?"}]


@contextmanager
def served(product: Product, count: int) -> Iterator[list[int]]:
    """So many engines of `tiny` that serve it by its name; ended afterwards, if the test hasn't ended them."""
    with product.client("admin") as client:
        rows = [client.post("/api/deployments", json={"model": "tiny"}).raise_for_status().json() for _ in range(count)]
        numbers = [row["id"] for row in rows]
        wait_for("the engines", lambda: all(facts(client, number)["status"] == "ready" for number in numbers), 240)
        yield numbers
        for number in set(numbers) & {row["id"] for row in serving(client, "tiny")}:
            client.post(f"/api/deployments/{number}/stop").raise_for_status()
        wait_for("their end", lambda: all(facts(client, number)["status"] == "stopped" for number in numbers), 120)


@pytest.fixture
def engine(product: Product) -> Iterator[int]:
    """An engine of the test's own."""
    with served(product, 1) as (number,):
        yield number


@pytest.fixture
def engines(product: Product) -> Iterator[list[int]]:
    """Two of them."""
    with served(product, 2) as numbers:
        yield numbers


def facts(client: httpx.Client, number: int) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/deployments/{number}").raise_for_status().json()
    assert found["status"] != "failed", found
    return found


def engine_pid(product: Product, row: dict[str, Any]) -> int:
    record = json.loads((product.attempt_folder(row["job_id"], row["attempt"]) / "process.json").read_text())
    return int(record["pid"])


class Load:
    """Clients that ask one after another, each other one streaming; notes what became of each answer.

    Each asks `each` times, or until `enough` is set.
    """

    def __init__(
        self, product: Product, key: str, model: str = "tiny", *, clients: int = CLIENTS, each: int | None = EACH
    ) -> None:
        self._product = product
        self._key = key
        self._model = model
        self._each = each
        self.enough = threading.Event()
        self.outcomes: list[str] = []
        self.tokens = 0
        self.begun = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(clients)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(180)

    def _ask_on(self, number: int) -> None:
        with httpx.Client(base_url=self._product.url, headers={"X-API-Key": self._key}, timeout=120) as client:
            for _ in itertools.count() if self._each is None else range(self._each):
                if self.enough.is_set():
                    return
                outcome, tokens = self._ask(client, is_stream=number % 2 == 0)
                with self._lock:
                    self.outcomes.append(outcome)
                    self.tokens += tokens

    def _ask(self, client: httpx.Client, *, is_stream: bool) -> tuple[str, int]:
        body = {"model": self._model, "messages": QUESTION, "max_tokens": 32, "temperature": 0, "stream": is_stream}
        if not is_stream:
            answer = client.post("/v1/chat/completions", json=body)
            self.begun.set()
            return self._whole(answer)
        body["stream_options"] = {"include_usage": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = []
            for line in stream.iter_lines():
                self.begun.set()
                lines.append(line)
        said = "\n".join(lines)
        if "engine_lost" in said:
            return "lost midway", 0
        if stream.status_code != 200:
            return f"{stream.status_code}", 0
        usage = next(json.loads(line.removeprefix("data: ")) for line in lines if '"usage":{' in line)["usage"]
        return "answered", int(usage["completion_tokens"])

    def _whole(self, answer: httpx.Response) -> tuple[str, int]:
        if answer.status_code != 200:
            return f"{answer.status_code}", 0
        return "answered", int(answer.json()["usage"]["completion_tokens"])


def used(client: httpx.Client, key_id: int) -> dict[str, int]:
    rows = client.get("/api/usage", params={"days": 2, "key_id": key_id}).raise_for_status().json()["rows"]
    return {name: sum(row[name] for row in rows) for name in ("requests", "failures", "completion_tokens")}


def test_one_of_two_engines_is_killed_under_load(product: Product, engines: list[int]) -> None:
    with product.client("admin") as client:
        key = client.post("/api/keys", json={"name": "load", "role": "use"}).raise_for_status().json()
        load = Load(product, key["key"])
        load.run()
        assert load.begun.wait(60)
        os.kill(engine_pid(product, facts(client, engines[0])), signal.SIGKILL)
        load.join()
        # A stream that had begun on the dead engine is told so; whatever hadn't begun went to the other one.
        assert len(load.outcomes) == CLIENTS * EACH, load.outcomes
        assert set(load.outcomes) <= {"answered", "lost midway"}, load.outcomes
        assert load.outcomes.count("answered") >= CLIENTS * (EACH - 1), load.outcomes
        wait_for("the engine to be started again", lambda: is_again(facts(client, engines[0])), 60)

        wait_for("the usage", lambda: used(client, key["id"])["requests"] >= CLIENTS * EACH, 20)
        lost, taken = load.outcomes.count("lost midway"), used(client, key["id"])
        assert (taken["requests"], taken["failures"]) == (CLIENTS * EACH, lost)
        assert taken["completion_tokens"] >= load.tokens if lost else taken["completion_tokens"] == load.tokens
        speed = client.get("/api/usage/speed", params={"model": "tiny", "hours": 1}).json()["points"]
        assert speed[-1]["first_token_median"] > 0


def is_again(row: dict[str, Any]) -> bool:
    return row["restart"] is not None or row["attempt"] == 2


def test_a_limited_key_gets_429_in_openais_shape(product: Product, engine: int) -> None:
    limits = {"name": "two a minute", "role": "use", "requests_per_minute": 2, "models": ["tiny"]}
    with product.client("admin") as client:
        key = client.post("/api/keys", json=limits).raise_for_status().json()["key"]
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 2}
    with httpx.Client(base_url=product.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        answers = [client.post("/v1/chat/completions", json=body) for _ in range(3)]
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["x-ratelimit-remaining-requests"] == "0"
    error = answers[2].json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert 0 < int(answers[2].headers["Retry-After"]) <= 60


def test_the_active_model_is_switched_under_eight_clients(product: Product, tiny_model: Path) -> None:
    with product.client("admin", timeout=300) as client:
        own = {"id": "tiny-too", "source": "directory", "path": str(tiny_model)}
        client.post("/api/models/register", json=own).raise_for_status()
        wait_for("the other model", lambda: client.get("/api/models/tiny-too").json()["state"] == "ready")
        client.post("/api/models/set_active", json={"id": "tiny"}).raise_for_status()
        load = Load(product, product.keys["use"], "default", clients=8, each=None)
        load.run()
        try:
            assert load.begun.wait(60)
            client.post("/api/models/set_active", json={"id": "tiny-too"}).raise_for_status()
            assert active(client) == "tiny-too"
            asked = len(load.outcomes)
            wait_for("answers of the other model", lambda: len(load.outcomes) > asked + 8)
            client.post("/api/deployments/rollback").raise_for_status()
            wait_for("the model from before", lambda: active(client) == "tiny", 240)
            wait_for("the other one's end", lambda: not serving(client, "tiny-too"), 120)
        finally:
            load.enough.set()
            load.join()
        assert set(load.outcomes) == {"answered"}, load.outcomes


def active(client: httpx.Client) -> str:
    """The active model."""
    return str(client.get("/api/models/active").raise_for_status().json()["id"])


def serving(client: httpx.Client, model: str) -> list[dict[str, Any]]:
    """A model's engines that haven't ended."""
    rows = client.get("/api/deployments").raise_for_status().json()["deployments"]
    return [row for row in rows if row["model"] == model and row["status"] not in ("stopped", "failed")]
