"""Two web processes on a real PostgreSQL and a real Redis: one dispatches, both show it live, either may be lost.

The tests share one product, in any order: each begins with both processes, whatever the one before has ended.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.product import CHECKOUT, START_SECONDS, STOP_SECONDS, Product, wait_for
from tests.servers import PostgresServer, RedisServer, missing
from tests.tiny import write_style_dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()) and os.environ.get("CI") != "true", reason=f"not installed: {missing()}"),
]
TAKEN_OVER_SECONDS = 10.0
STEPS = 80
CONFIG: dict[str, Any] = {
    "hyperparams": {"max_steps": STEPS, "per_device_train_batch_size": 8, "max_length": 128},
    "monitoring": {"logging_steps": 1, "eval_steps": STEPS},
    "output": {"save_steps": STEPS},
}


class Web:
    """A second web process on a product's home and data base."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self.start()

    def start(self) -> None:
        """Starts it at any free port."""
        self._log = self._product.home / "logs" / "web-2-console.log"
        begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", "0"], cwd=CHECKOUT, env=self._product.environment,
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip

        def address() -> str | None:
            text = self._log.read_bytes()[begin:].decode(errors="replace")
            assert self._process.poll() is None, f"the second web process ended:\n{text[-3000:]}"
            found = [line.split()[-1] for line in text.splitlines() if line.startswith("Pilothouse serves ")]
            return found[0] if found else None

        self.url = wait_for("the second web process", address, START_SECONDS)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends it as Ctrl-C does."""
        if self.runs:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_SECONDS)


class House:
    """A product of two web processes and its two servers, and a dataset in it."""

    def __init__(self, product: Product, second: Web, postgres: PostgresServer, redis: RedisServer) -> None:
        self.product, self.second, self.postgres, self.redis = product, second, postgres, redis
        rows = write_style_dataset(product.home.parent / "style.jsonl", rows=80, seed=7)
        self.dataset_id: int = product.upload(rows, "several")["id"]

    def make_whole(self) -> None:
        """Starts what has ended."""
        if not self.product.web_runs:
            self.product.start_web()
        if not self.second.runs:
            self.second.start()
        self.dispatcher()

    def dispatching(self) -> int | None:
        """The pid of the process that holds the lease."""
        rows = self.product.rows("SELECT holder FROM controlplane_lease WHERE expires_at > clock_timestamp()")
        return int(rows[0][0].split("(pid ")[1].split(",")[0]) if rows else None

    def dispatcher(self) -> int:
        """The same, once there is one; it is one of the two."""
        return wait_for("one of the two to dispatch", lambda: (pid := self.dispatching()) in self.urls() and pid, 20)

    def token(self) -> int:
        """The number of the lease: each holder has another."""
        return int(self.product.rows("SELECT token FROM controlplane_lease")[0][0])

    def urls(self) -> dict[int, str]:
        """The two processes' addresses, by pid."""
        return {self.product.web_pid: self.product.url, self.second.pid: self.second.url}

    @contextmanager
    def listening(self, url: str, topic: str) -> Iterator[ClientConnection]:
        """A websocket of one process, subscribed to a topic."""
        cookie = f"sessionid={self.product.cookies['use']}"
        address = url.replace("http", "ws", 1) + "/ws/live"
        with connect(address, additional_headers={"Cookie": cookie}, origin=Origin(url)) as socket:
            socket.send(json.dumps({"subscribe": [topic]}))
            assert json.loads(socket.recv(timeout=30))["kind"] == "subscribed"
            yield socket


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, static_home: Path) -> Iterator[House]:
    assert not missing(), f"not installed: {missing()}"
    folder = tmp_path_factory.mktemp("several")
    with PostgresServer() as postgres, RedisServer() as redis:
        environment = {"DATABASE_URL": postgres.new_database(), "REDIS_URL": redis.url}
        with Product(folder, tiny_model, static_home, environment) as product:
            second = Web(product)
            try:
                yield House(product, second, postgres, redis)
            finally:
                second.stop()


@pytest.fixture
def house(shared_house: House) -> House:
    shared_house.make_whole()
    return shared_house


@pytest.fixture
def dataset_id(house: House) -> int:
    return house.dataset_id


def heard(socket: ClientConnection, wanted: Callable[[dict[str, Any]], bool], timeout_seconds: float = 60.0) -> Any:
    """The first message that is wanted."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        message = json.loads(socket.recv(timeout=max(0.1, deadline - time.monotonic())))
        if wanted(message):
            return message


def test_the_main_job_on_one_is_live_on_the_other(house: House, dataset_id: int) -> None:
    product = house.product
    others = [url for pid, url in house.urls().items() if pid != house.dispatching()]
    run = product.create_run("live on both", dataset_id, {**CONFIG, "output": {"register_as": "several-1"}})
    with house.listening(others[0], f"run:{run['id']}") as socket:
        heard(socket, lambda message: message["kind"] == "metrics")
        heard(socket, lambda message: message["kind"] == "status" and message["data"]["status"] == "done", 180)
    with product.client("use") as client:
        loss = client.get(f"/api/runs/{run['id']}/metrics", params={"keys": "loss"}).json()["series"]["loss"]
    assert loss["step"] == list(range(1, STEPS + 1))

    with product.client("admin") as client:
        activated = client.post("/api/models/set_active", json={"id": "several-1"}, timeout=180)
        assert activated.json()["active_model"] == "several-1", activated.text
    body = {"model": "several-1", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 8}
    for url in house.urls().values():
        with product.client("use", base_url=url) as client:
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] > 0


def test_the_killed_dispatchers_place_is_taken_and_no_job_comes_twice(house: House, dataset_id: int) -> None:
    product = house.product
    run = product.create_run("adopted", dataset_id, CONFIG)
    product.wait_for_step(run["id"], 5)
    pid = house.dispatcher()
    survivor = next(other for other in house.urls() if other != pid)
    before = house.token()
    psutil.Process(pid).kill()
    wait_for("the other to dispatch", lambda: house.dispatching() == survivor, TAKEN_OVER_SECONDS)
    assert house.token() == before + 1

    url = house.urls()[survivor]
    with product.client("read", base_url=url) as client:
        facts = wait_for(
            "the run's end",
            lambda: (found := client.get(f"/api/runs/{run['id']}").json())["status"] == "done" and found, 180,
        )  # fmt: skip
        loss = client.get(f"/api/runs/{run['id']}/metrics", params={"keys": "loss"}).json()["series"]["loss"]
    assert facts["attempts"] == 1
    assert loss["step"] == list(range(1, STEPS + 1))


def test_one_that_was_stopped_and_wakes_does_nothing_more(house: House, dataset_id: int) -> None:
    product = house.product
    pid = house.dispatcher()
    survivor = next(other for other in house.urls() if other != pid)
    before = house.token()
    stopped = psutil.Process(pid)
    stopped.suspend()
    try:
        wait_for("the other to dispatch", lambda: house.dispatching() == survivor, TAKEN_OVER_SECONDS)
        with product.client("use", base_url=house.urls()[survivor]) as client:
            body = {"name": "meanwhile", "dataset": dataset_id, "model": "tiny", "config": CONFIG}
            run = client.post("/api/runs", json=body).raise_for_status().json()
            wait_for("it to run", lambda: client.get(f"/api/runs/{run['id']}").json()["status"] == "running", 60)
    finally:
        stopped.resume()
    wait_for("it to notice", lambda: "no longer dispatches" in product.logs(200_000), 30)
    assert (house.dispatching(), house.token()) == (survivor, before + 1)
    with product.client("use") as client:
        client.post(f"/api/runs/{run['id']}/stop", json={"mode": "now"})
    assert product.wait_for_run(run["id"], "cancelled", "done")["attempts"] == 1
    attempts = product.rows("SELECT count(*) FROM controlplane_attempt WHERE job_id = ?", [run["job_id"]])
    assert attempts == [(1,)]


def test_a_redis_that_is_away_costs_the_live_messages_alone(house: House, dataset_id: int) -> None:
    product = house.product
    house.redis.stop()
    with product.client("use") as client:
        assert client.get("/api/jobs").status_code == 200
    house.redis.start()
    url = next(url for pid, url in house.urls().items() if pid != house.dispatching())

    def live_again() -> bool:
        try:
            with house.listening(url, "jobs") as socket, product.client("use") as client:
                run = product.create_run("said live", dataset_id, CONFIG)
                client.post(f"/api/runs/{run['id']}/stop", json={"mode": "now"}).raise_for_status()
                return bool(heard(socket, lambda message: message["data"].get("id") == run["job_id"], 5))
        except (TimeoutError, OSError, WebSocketException):
            return False

    wait_for("live messages", live_again, 60)


def test_a_data_base_that_is_away_is_said_and_found_again(house: House, dataset_id: int) -> None:
    product = house.product
    run = product.create_run("through an outage", dataset_id, CONFIG)
    product.wait_for_step(run["id"], 5)
    house.postgres.stop()
    with httpx.Client(base_url=product.url, timeout=30, cookies={"sessionid": product.cookies["use"]}) as person:
        page = person.get("/runs/")
        assert page.status_code == 503
        assert "data base" in page.text
    with product.client("use", timeout=30) as client:
        answer = client.get("/api/jobs")
        assert answer.status_code == 503
        assert "data base" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) > 0
    house.postgres.start()

    def done() -> bool:
        with product.client("read") as client:
            answer = client.get(f"/api/runs/{run['id']}")
            return answer.status_code == 200 and answer.json()["status"] == "done"

    wait_for("the run's end", done, 180)
    facts = product.run_facts(run["id"])
    assert facts["attempts"] == 1
    with product.client("read") as client:
        loss = client.get(f"/api/runs/{run['id']}/metrics", params={"keys": "loss"}).json()["series"]["loss"]
    assert loss["step"] == list(range(1, STEPS + 1))


def test_all_of_them_are_ended_by_one_command(house: House) -> None:
    said = house.product.manage("stop_all", "--deadline", "30")
    assert said.count("has ended") >= 2
    assert str(house.second.pid) in said
