"""The whole product in processes of its own: agent, web server and jobs on a scratch home, as an owner runs them.

    product = Product(folder, tiny_model)
    product.start()
    product.client("use").get("/api/models")
    product.kill_web()
    product.start_web()
    product.close()          # ends everything, and raises when something outlives it

Fixtures of the same names are in `tests/conftest.py`: `product` is shared by all tests of a session (name what you
create, and don't kill), `own_product` is one test's own.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import httpx
import psutil
import psycopg

CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0
TICK_SECONDS = 0.05
Found = TypeVar("Found")


def wait_for(what: str, look: Callable[[], Found | None], timeout_seconds: float = 60.0) -> Found:
    """Looks until `look` finds something (truthy); raises AssertionError, naming `what`, after the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s in vain for {what}"
        time.sleep(TICK_SECONDS)
    return found


class Product:
    """One home, its agent and its web server. `password` is everybody's; people are called as their role is."""

    def __init__(
        self, folder: Path, model_folder: Path, static_home: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """`static_home`: a home whose collected static files this one shares; `environment`: more of it, or other."""
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.url = ""
        self.legacy_url = ""
        self.port = 0
        self.password = ""
        self.cookies: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self._model_folder = model_folder
        self._web: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ, "PILOTHOUSE_HOME": str(self.home), "PILOTHOUSE_STARTER": "none", "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "DATABASE_URL": "", "REDIS_URL": "", **environment,
        }  # fmt: skip
        if static_home is not None:
            (self.home / "static").symlink_to(static_home / "static")
            shutil.copy(static_home / "static.stamp", self.home)

    # --- Starting and stopping ---

    def __enter__(self) -> Self:
        """Starts everything; ends what it has started when that fails."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def start(self) -> None:
        """Tables, people, keys, the model `tiny`, the agent and the web server."""
        facts = json.loads(self.python("-m", "tests.product_rows", str(self._model_folder)))
        self.password, self.cookies, self.keys = facts["password"], facts["cookies"], facts["keys"]
        self.start_web()

    def start_web(self, port: int | None = None) -> None:
        """Starts the web server (on the port that it had before, so that browsers come back); it answers afterwards."""
        assert not self.web_runs, "the web server runs already"
        port = self.port if port is None else port
        said = self.home / "logs" / "web-console.log"
        begin = said.stat().st_size if said.exists() else 0
        with said.open("ab") as console:
            self._web = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", str(port), "--legacy-port", "0"],
                cwd=CHECKOUT, env=self.environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip

        def addresses() -> list[str] | None:
            text = said.read_bytes()[begin:].decode(errors="replace")
            assert self._web is not None
            assert self._web.poll() is None, f"the web server ended:\n{text[-3000:]}"
            greeting = ("The API without /api answers at ", "Pilothouse serves ")
            found = [line.split()[-1] for line in text.splitlines() if line.startswith(greeting)]
            return found if len(found) == len(greeting) else None

        self.legacy_url, self.url = wait_for("the web server", addresses, START_SECONDS)
        self.port = int(self.url.rpartition(":")[2])

    @property
    def web_runs(self) -> bool:
        """Whether the web server has been started and has not ended."""
        return self._web is not None and self._web.poll() is None

    @property
    def web_pid(self) -> int:
        """The web server's process."""
        assert self._web is not None
        return self._web.pid

    @property
    def agent_pid(self) -> int:
        """The agent's process, as its lock file names it."""
        return int((self.home / "agent.lock").read_text())

    def stop_web(self) -> int:
        """Ends the web server as Ctrl-C does; returns its exit code."""
        assert self._web is not None
        self._web.send_signal(signal.SIGINT)
        return self._web.wait(STOP_SECONDS)

    def kill_web(self) -> None:
        """SIGKILL."""
        assert self._web is not None
        self._web.kill()
        self._web.wait(STOP_SECONDS)

    def kill_agent(self) -> None:
        """SIGKILL; it is gone afterwards. A web server that runs starts another one within seconds."""
        process = psutil.Process(self.agent_pid)
        process.kill()
        process.wait(STOP_SECONDS)

    def start_agent(self) -> None:
        """Starts the agent where none runs."""
        self.python("-m", "monitoring", "agent", "--home", str(self.home), "--detach")

    def close(self) -> None:
        """Ends web server, jobs and agent. Raises AssertionError when anything outlives that."""
        if self.web_runs:
            self.stop_web()
        if any("monitoring" in " ".join(process.info["cmdline"] or ()) for process in self.processes()):
            stop = [sys.executable, "-m", "monitoring", "stop", "--home", str(self.home), "--jobs", "--deadline", "20"]
            subprocess.run(stop, cwd=CHECKOUT, env=self.environment, capture_output=True, check=False, timeout=60)
        left = {process.pid: process.info["cmdline"] for process in self.processes()}
        for process in self.processes():
            process.kill()
        psutil.wait_procs(list(self.processes()), STOP_SECONDS)
        assert not left, f"these outlived the product: {left}"

    def processes(self) -> list[psutil.Process]:
        """Every process of this home: each has it in its environment."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if (process.info["environ"] or {}).get("PILOTHOUSE_HOME") == str(self.home)
            and process.status() != psutil.STATUS_ZOMBIE
        ]

    # --- Using it ---

    def client(self, role: str | None = "admin", **options: Any) -> httpx.Client:
        """An HTTP client with the key of a role (None: without one)."""
        headers = {"X-API-Key": self.keys[role]} if role else {}
        return httpx.Client(headers=headers, **{"base_url": self.url, "timeout": 60.0, **options})

    def python(self, *arguments: str) -> str:
        """Runs Python on this home, in the checkout; returns what it prints."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=CHECKOUT, env=self.environment, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def manage(self, *arguments: str) -> str:
        """Runs `manage.py`; returns what it prints."""
        return self.python("manage.py", *arguments)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Reads the data base."""
        if url := self.environment["DATABASE_URL"]:
            with psycopg.connect(url) as postgres:
                return list(postgres.execute(sql.replace("?", "%s").encode(), parameters).fetchall())
        with closing(sqlite3.connect(f"file:{self.home / 'db.sqlite3'}?mode=ro", uri=True, timeout=20)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def attempt_folder(self, job_id: int, attempt: int = 1) -> Path:
        """Where an attempt's files lie."""
        return self.home / "jobs" / str(job_id) / "attempts" / str(attempt)

    def logs(self, characters: int = 3000) -> str:
        """The ends of what web server, agent and jobs have written: for the message of a test that fails."""
        files = sorted([*self.home.glob("logs/*.log"), *self.home.glob("jobs/*/attempts/*/log.txt")])
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-characters:]}" for path in files)

    # --- The main job, step by step, through the API ---

    def upload(self, path: Path, name: str, role: str = "use") -> dict[str, Any]:
        """Uploads a file in parts and waits until it is ready; returns the dataset."""
        with self.client(role) as client:
            body = {"filename": path.name, "bytes": path.stat().st_size}
            upload = client.post("/api/uploads", json=body).raise_for_status().json()
            with path.open("rb") as stream:
                for number in range(1, upload["part_count"] + 1):
                    part = stream.read(upload["part_bytes"])
                    client.put(f"/api/uploads/{upload['id']}/parts/{number}", content=part).raise_for_status()
            done = client.post(f"/api/uploads/{upload['id']}/complete", json={"name": name, "eval_fraction": 0.1})
            dataset_id = done.raise_for_status().json()["id"]

            def settled() -> dict[str, Any] | None:
                dataset: dict[str, Any] = client.get(f"/api/datasets/{dataset_id}").raise_for_status().json()
                return dataset if dataset["status"] in ("ready", "rejected") else None

            dataset = wait_for(f"the validation of {name}", settled)
        assert dataset["status"] == "ready", dataset
        return dataset

    def create_run(self, name: str, dataset_id: int, config: dict[str, Any], role: str = "use") -> dict[str, Any]:
        """Queues a run of the model `tiny`; returns {"id", "job_id", "status"}."""
        body = {"name": name, "dataset": dataset_id, "model": "tiny", "config": config}
        with self.client(role) as client:
            answer = client.post("/api/runs", json=body)
            assert answer.status_code == 201, answer.text
            created: dict[str, Any] = answer.json()
        return created

    def run_facts(self, run_id: int) -> dict[str, Any]:
        """What GET /api/runs/ID answers."""
        with self.client("read") as client:
            facts: dict[str, Any] = client.get(f"/api/runs/{run_id}").raise_for_status().json()
        return facts

    def wait_for_run(self, run_id: int, *statuses: str, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """Waits until a run is in one of the statuses ("done" without any); fails at once when it has failed."""
        wanted = statuses or ("done",)

        def look() -> dict[str, Any] | None:
            facts = self.run_facts(run_id)
            assert facts["status"] != "failed" or "failed" in wanted, f"{facts['error']}\n{self.logs()}"
            return facts if facts["status"] in wanted else None

        return wait_for(f"run {run_id} to be {' or '.join(wanted)}", look, timeout_seconds)

    def wait_for_step(self, run_id: int, step: int, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """Waits until a run has logged a step."""

        def look() -> dict[str, Any] | None:
            facts = self.run_facts(run_id)
            assert facts["status"] != "failed", f"{facts['error']}\n{self.logs()}"
            return facts if (facts["progress"] or {}).get("step", 0) >= step else None

        return wait_for(f"step {step} of run {run_id}", look, timeout_seconds)
