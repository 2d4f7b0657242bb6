"""TensorBoard and MLflow for `bench.pages`: each installed into an environment of its own, filled, started and opened.

What is timed is the navigation of a fresh page of a browser that has been there before, to the curve that is painted.
"""

import socket
import subprocess
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, ViewportSize

from bench import peer_environment
from tests.product import wait_for

START_SECONDS = 120.0
WIDE: ViewportSize = {"width": 1440, "height": 900}
FILL = """
import csv, sys
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
run = client.create_run(client.create_experiment("bench"))
rows = list(csv.DictReader(open(sys.argv[2])))
for start in range(0, len(rows), 1000):
    part = rows[start:start + 1000]
    client.log_batch(run.info.run_id, metrics=[
        Metric("loss", float(row["value"]), int(float(row["time"]) * 1000), int(row["step"])) for row in part
    ])
client.set_terminated(run.info.run_id)
print(run.info.experiment_id, run.info.run_id)
"""


def environment(folder: Path, name: str, packages: list[str]) -> Path:
    """The Python of an environment with the packages: the one that is in the folder already, else a new one."""
    python = folder / name / "bin" / "python"
    return python if python.exists() else peer_environment.make(folder / name, packages, alone=True)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Side:
    """A peer's server on this machine."""

    painted: str
    address: str

    def start(self, command: list[str], port: int) -> None:
        """Starts it and waits until it listens."""
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def listens() -> bool:
            assert self._process.poll() is None, f"{command} ended"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for("the peer's server", listens, START_SECONDS)

    def draw(self, browser: Browser, rounds: int) -> list[float]:
        """Milliseconds from the navigation to the curve, of each round."""
        context = browser.new_context(viewport=WIDE)
        spent: list[float] = []
        page = context.new_page()
        for number in range(rounds + 2):
            page.goto("about:blank")
            begun = time.perf_counter()
            page.goto(self.address, wait_until="commit")
            page.wait_for_function(self.painted, polling=10, timeout=120_000)
            if number > 1:
                spent.append((time.perf_counter() - begun) * 1000)
        context.close()
        return spent

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(30)


class TensorBoardSide(Side):
    """TensorBoard on the folder `board`."""

    painted = "() => document.querySelector('scalar-card line-chart svg path, scalar-card line-chart canvas')"

    def __init__(self, folder: Path, environments: Path) -> None:
        python, port = environment(environments, "tensorboard", ["tensorboard", "setuptools<81"]), free_port()
        here = f"http://127.0.0.1:{port}"
        self.address = f"{here}/#timeseries"
        command = [str(python), "-m", "tensorboard.main", "--logdir", str(folder / "board"), "--port", str(port)]
        self.start(command, port)
        wait_for("what it reads", lambda: httpx.get(f"{here}/data/plugin/scalars/tags").json(), START_SECONDS)
        time.sleep(10)  # it goes on reading in the background, and says nowhere how far it is


class MlflowSide(Side):
    """MLflow on a SQLite data base that holds the rows of `long.csv`."""

    painted = "() => document.querySelector('.js-plotly-plot .scatterlayer path.js-line')"

    def __init__(self, folder: Path, environments: Path) -> None:
        python = environment(environments, "mlflow", ["mlflow"])
        store, port = f"sqlite:///{folder}/mlflow.db", free_port()
        done = subprocess.run(
            [str(python), "-c", FILL, store, str(folder / "long.csv")], check=True, capture_output=True, text=True
        )
        experiment, run = done.stdout.split()[-2:]
        self.address = f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs/{run}/model-metrics"
        self.start([str(python), "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)], port)
