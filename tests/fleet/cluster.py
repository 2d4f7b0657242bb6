"""A real fleet on one machine: the product as its head, and a second node with a home, an agent and ports of its own.

    fleet = Cluster(folder, tiny_model, static_home)
    fleet.start()
    fleet.web.client("read").get("/api/hosts")       # two hosts
    fleet.second.kill_raylet()                       # its agent and its jobs don't notice
    fleet.second.start()
    fleet.close()                                    # raises when anything outlives it

The fixture `fleet` (tests/fleet/conftest.py) is shared by a session: name what you create, and put back what you kill.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from tests.fleet.network import Cable
from tests.product import CHECKOUT, Product, wait_for

PORTS = 60
START_SECONDS = 150.0
STOP_SECONDS = 30.0


def free_ports(count: int = PORTS) -> int:
    """The first of so many ports in a row that nobody listens at."""
    while True:
        first = random.randrange(20_000, 32_000 - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - as Ray does
        except OSError:
            return False
        return True


class SecondNode:
    """A machine that has joined: what `bin/up --join` runs, on a home that nobody told the first one of.

    `prefix`: the words before its command, where it stands in a network of its own.
    """

    def __init__(self, home: Path, address: str, token: Path, prefix: Sequence[str] = ()) -> None:
        self.home = home
        self._prefix = prefix
        self.port = free_ports()
        self._address = address
        self._token = token
        self._join: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PILOTHOUSE_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    @property
    def console(self) -> Path:
        """What the command says."""
        return self.home.parent / "join.log"

    def start(self) -> None:
        """Joins; it is a node of the cluster afterwards."""
        self.home.mkdir(parents=True, exist_ok=True)
        begin = self.console.stat().st_size if self.console.exists() else 0
        python = [*self._prefix, sys.executable]
        command = [*python, "-m", "controlplane.fleet", "join", self._address, "--home", str(self.home)]
        with self.console.open("ab") as said:
            self._join = subprocess.Popen(
                [*command, "--port", str(self.port), "--token-file", str(self._token)],
                cwd=CHECKOUT, env=self.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip

        def joined() -> bool:
            text = self.console.read_bytes()[begin:].decode(errors="replace")
            assert self._join is not None
            assert self._join.poll() is None, f"joining ended:\n{text}\n{self.ray_log()}"
            return "is in the fleet" in text

        wait_for("the second node", joined, START_SECONDS)

    def ray_log(self) -> str:
        """The end of what Ray has said on this node."""
        path = self.home / "logs" / "ray-node.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def stop(self) -> int:
        """Ends the node as Ctrl-C does; agent and jobs go on. Returns the exit code."""
        assert self._join is not None
        self._join.send_signal(signal.SIGINT)
        return self._join.wait(STOP_SECONDS)

    def kill_raylet(self) -> None:
        """SIGKILL to the node's raylet, as if the machine's Ray had crashed."""
        (raylet,) = [
            process for process in self.processes()
            if process.info["cmdline"] and process.info["cmdline"][0].endswith("raylet/raylet")
        ]  # fmt: skip
        raylet.kill()
        raylet.wait(STOP_SECONDS)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs Python on this home, in the checkout."""
        return subprocess.run(
            [sys.executable, *arguments], cwd=CHECKOUT, env=self.environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    @property
    def agent_pid(self) -> int:
        """The agent's process."""
        return int((self.home / "agent.lock").read_text())

    def processes(self) -> list[psutil.Process]:
        """Every process of this home."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if (process.info["environ"] or {}).get("PILOTHOUSE_HOME") == str(self.home)
            and process.status() != psutil.STATUS_ZOMBIE
        ]

    def close(self) -> None:
        """Ends node, jobs and agent. Raises AssertionError when anything outlives that."""
        if self._join is not None and self._join.poll() is None:
            self.stop()
        self.python("-m", "monitoring", "stop", "--home", str(self.home), "--jobs", "--deadline", "20")
        left = {process.pid: process.info["cmdline"] for process in self.processes()}
        for process in self.processes():
            process.kill()
        psutil.wait_procs(list(self.processes()), STOP_SECONDS)
        assert not left, f"these outlived the second node: {left}"


class Cluster:
    """The fleet: `web` is the product on the head, `second` the other node."""

    def __init__(self, folder: Path, model_folder: Path, static_home: Path, cable: Cable | None = None) -> None:
        """`cable`: the second node stands at its other end."""
        self._cable = cable
        self.web = Product(folder / "first", model_folder, static_home)
        self.folder = folder
        self.address = ""
        self.token = folder / "token"
        self._second: SecondNode | None = None

    @property
    def second(self) -> SecondNode:
        """The node that has joined."""
        assert self._second is not None
        return self._second

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def start(self) -> None:
        """Both nodes and the web server; both hosts have appeared afterwards."""
        place = ["--home", str(self.web.home), "--port", str(free_ports())]
        if self._cable is not None:
            place += ["--address", self._cable.here]
        head = self.web.python("-m", "controlplane.fleet", "head", *place)
        self.address = self.web.environment["RAY_ADDRESS"] = head.split()[-1]
        shutil.copy(self.web.home / "fleet_token", self.token)
        self.web.start()
        prefix = () if self._cable is None else self._cable.prefix
        self._second = SecondNode(self.folder / "second" / "home", self.address, self.token, prefix)
        self._second.start()
        wait_for("two hosts", lambda: len(self.hosts()) == 2, START_SECONDS)

    def hosts(self) -> list[dict[str, Any]]:
        """What GET /api/hosts answers."""
        with self.web.client("read") as client:
            found: list[dict[str, Any]] = client.get("/api/hosts").raise_for_status().json()["hosts"]
        return found

    def first_host(self) -> dict[str, Any]:
        """The head's own host, as the web server knows it."""
        return next(host for host in self.hosts() if host["carrier"] == "local")

    def second_host(self) -> dict[str, Any]:
        """The second node's host, as the web server knows it."""
        return next(host for host in self.hosts() if host["carrier"] == "ray")

    def close(self) -> None:
        """Ends everything. Raises AssertionError when anything outlives that."""
        try:
            if self._second is not None:
                self._second.close()
        finally:
            self.web.python("-m", "controlplane.fleet", "stop", "--home", str(self.web.home))
            self.web.close()
