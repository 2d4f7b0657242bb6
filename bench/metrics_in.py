"""How fast a foreign script's points are taken: `python -m bench.metrics_in [--rounds 5] [--peers] [--environments F]`.

The real server takes points by `POST /api/runs/ID/metrics`, in batches of 1,000 and one a call, over a few connections
that stay open; a round ends when the server, asked, shows every point. With `--peers` MLflow's server (an SQLite store,
as ours) takes the same points from the same client by its log-batch and log-metric calls, in the same run of this.
Goal: ten times MLflow in both.
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from bench.machine import described
from bench.pages_peers import Side, environment, free_port
from tests.product import Product, wait_for
from tests.tiny import build_tiny_model

BATCH = 1_000
"""As many as MLflow takes in one call."""

CONNECTIONS = {"batches": 4, "one a call": 16}
GOAL = 10.0


class Taker(Protocol):
    """A server that takes points: its address, and how its calls look."""

    address: str
    headers: dict[str, str]

    def begin(self) -> str: ...
    def batch(self, run: str, key: str, steps: Sequence[int]) -> tuple[str, bytes]: ...
    def point(self, run: str, key: str, step: int) -> tuple[str, bytes]: ...
    def count(self, run: str, key: str) -> int: ...


class Connection:
    """One that stays open."""

    def __init__(self, taker: Taker) -> None:
        self._http = http.client.HTTPConnection(urlsplit(taker.address).netloc, timeout=60)
        self._headers = {"Content-Type": "application/json", **taker.headers}

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """The answer to a call; a POST where it has a body."""
        self._http.request("GET" if body is None else "POST", path, body, self._headers)
        answer = self._http.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{path}: {answer.status} {text[:300]!r}"
        return json.loads(text or b"{}")


class Ours:
    """The product."""

    def __init__(self, product: Product) -> None:
        self.address, self.headers = product.url, {"X-API-Key": product.keys["use"]}

    def begin(self) -> str:
        return str(Connection(self).ask("/api/runs/external", b'{"name": "bench"}')["id"])

    def batch(self, run: str, key: str, steps: Sequence[int]) -> tuple[str, bytes]:
        points = [{"step": step, "time": 1.7e9 + step, "values": {key: step / 7}} for step in steps]
        return f"/api/runs/{run}/metrics", json.dumps({"points": points}).encode()

    def point(self, run: str, key: str, step: int) -> tuple[str, bytes]:
        body = {"step": step, "time": 1.7e9 + step, "values": {key: step / 7}}
        return f"/api/runs/{run}/metrics", json.dumps(body).encode()

    def count(self, run: str, key: str) -> int:
        rows = Connection(self).ask(f"/api/runs/{run}/metrics/keys")["keys"]
        return int(next(row["count"] for row in rows if row["key"] == key))


class Mlflow(Side):
    """MLflow's server with an SQLite store, in an environment of its own."""

    headers: dict[str, str] = {}

    def __init__(self, folder: Path, environments: Path) -> None:
        python = environment(environments, "mlflow", ["mlflow"])
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        store = f"sqlite:///{folder / 'mlflow.db'}"
        command = [str(python), "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
        self.start([*command, "--host", "127.0.0.1", "--workers", "1"], port)

    def begin(self) -> str:
        body = json.dumps({"experiment_id": "0", "start_time": int(time.time() * 1000)}).encode()
        return str(Connection(self).ask("/api/2.0/mlflow/runs/create", body)["run"]["info"]["run_id"])

    def batch(self, run: str, key: str, steps: Sequence[int]) -> tuple[str, bytes]:
        metrics = [self._metric(key, step) for step in steps]
        return "/api/2.0/mlflow/runs/log-batch", json.dumps({"run_id": run, "metrics": metrics}).encode()

    def point(self, run: str, key: str, step: int) -> tuple[str, bytes]:
        return "/api/2.0/mlflow/runs/log-metric", json.dumps({"run_id": run, **self._metric(key, step)}).encode()

    def _metric(self, key: str, step: int) -> dict[str, Any]:
        return {"key": key, "value": step / 7, "timestamp": 1_700_000_000_000 + step * 1000, "step": step}

    def count(self, run: str, key: str) -> int:
        path = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key={key}&max_results=25000"
        return len(Connection(self).ask(path)["metrics"])


def rate(taker: Taker, way: str, points: int) -> float:
    """Points a second, from the first call until all are shown."""
    run, connections = taker.begin(), CONNECTIONS[way]
    share = points // connections
    calls: list[list[tuple[str, bytes]]] = []
    for number in range(connections):
        key, steps = f"loss-{number}", range(share)
        if way == "batches":
            parts = [steps[start : start + BATCH] for start in range(0, share, BATCH)]
            calls.append([taker.batch(run, key, part) for part in parts])
        else:
            calls.append([taker.point(run, key, step) for step in steps])

    def send(own: list[tuple[str, bytes]]) -> None:
        connection = Connection(taker)
        for path, body in own:
            connection.ask(path, body)

    with ThreadPoolExecutor(connections) as threads:
        begun = time.perf_counter()
        list(threads.map(send, calls))
        for number in range(connections):
            wait_for("every point to be shown", lambda number=number: taker.count(run, f"loss-{number}") == share)  # type: ignore[misc] # bound now
        return share * connections / (time.perf_counter() - begun)


def measured(name: str, taker: Taker, sizes: dict[str, int], rounds: int) -> dict[str, float]:
    """Prints and returns the medians."""
    found = {}
    for way, points in sizes.items():
        rate(taker, way, points // 4)  # warms up
        rates = [rate(taker, way, points) for _ in range(rounds)]
        found[way] = statistics.median(rates)
        print(f"{name}, {way}: median {found[way]:,.0f} points/s ({min(rates):,.0f} to {max(rates):,.0f})", flush=True)
    return found


def main() -> int:
    """Prints the machine, the rates and the ratios; 0 whatever they are."""
    parser = argparse.ArgumentParser(prog="python -m bench.metrics_in", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--environments", type=Path, help="where that of MLflow is, or is to be kept")
    options = parser.parse_args()
    print(described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="pilothouse-bench-") as name:
        folder = Path(name)
        with Product(folder / "home", build_tiny_model(folder / "tiny")) as product:
            ours = measured("Pilothouse", Ours(product), {"batches": 200_000, "one a call": 3_200}, options.rounds)
        if not options.peers:
            return 0
        side: Mlflow = Mlflow(folder, options.environments or folder)
        try:
            theirs = measured("MLflow", side, {"batches": 20_000, "one a call": 320}, options.rounds)
        finally:
            side.close()
    for way, figure in theirs.items():
        ratio = ours[way] / figure
        print(f"{way}: {ratio:.1f} times MLflow (goal {GOAL:g}: {'met' if ratio >= GOAL else 'MISSED'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
