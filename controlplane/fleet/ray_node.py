"""This machine as a node of a fleet: `ray start`, kept up by pid until its owner ends it. Runs in the fleet's commands.

It touches no other cluster on the machine, and agents and jobs outlive it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from controlplane.fleet.local import CHECKOUT
from controlplane.fleet.ray_token import TOKEN_FILE, environment_of

PORT = 7400
"""The first of the ports that a node uses; the others lie behind it (docs/fleet.md)."""

WORKER_PORTS = (10, 59)
OBJECT_STORE_BYTES = 256 << 20
START_SECONDS = 120.0
STOP_SECONDS = 20.0
AGAIN_SECONDS = 2.0
STARTED = b"Ray runtime started."


class FleetError(Exception):
    """A sentence for whoever runs the command."""


@dataclass(frozen=True)
class Node:
    """One node: `head` is its own address where it begins a fleet, else it joins `fleet` (HOST:PORT)."""

    home: Path
    port: int
    head: str = ""
    fleet: str = ""

    @property
    def address(self) -> str:
        """The fleet's."""
        return self.fleet or f"{self.head}:{self.port}"

    @property
    def log(self) -> Path:
        """What Ray says."""
        return self.home / "logs" / "ray-node.log"

    def environment(self) -> dict[str, str]:
        """Of all of Ray's processes on this node, the shells that its workers run included."""
        return {**os.environ, "PILOTHOUSE_HOME": str(self.home), **environment_of(self.home)}

    def command(self) -> list[str]:
        """`ray start`, which ends with all its processes at SIGTERM. Ray schedules nothing, so it is given nothing."""
        first, last = (self.port + offset for offset in WORKER_PORTS)
        place = (
            ["--head", "--port", str(self.port), "--node-ip-address", self.head, "--include-dashboard", "false"]
            if self.head
            else ["--address", self.fleet]
        )
        return [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place,
            "--node-manager-port", str(self.port + 1), "--object-manager-port", str(self.port + 2),
            "--runtime-env-agent-port", str(self.port + 3),
            "--min-worker-port", str(first), "--max-worker-port", str(last),
            "--num-cpus", "0", "--num-gpus", "0", "--object-store-memory", str(OBJECT_STORE_BYTES),
            "--disable-usage-stats", "--include-log-monitor", "false", "--log-style", "record", "--log-color", "false",
        ]  # fmt: skip


class Keeper:
    """Runs a node's `ray start` until it is told to end; `say` hears what its owner should know."""

    def __init__(self, node: Node, say: Callable[[str], None]) -> None:
        self.node = node
        self._say = say
        self.ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once the node is up. Raises FleetError with Ray's last words."""
        self.node.log.parent.mkdir(parents=True, exist_ok=True)
        with self.node.log.open("ab") as said:
            begin = said.tell()
            self._process = subprocess.Popen(
                self.node.command(), cwd=CHECKOUT, env=self.node.environment(), stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while STARTED not in (words := self.node.log.read_bytes()[begin:]):
            if self._process.poll() is not None or time.monotonic() > deadline or self.ending.is_set():
                self.stop()
                raise FleetError(_last_words(words, self.node))
            self.ending.wait(0.1)

    def keep(self) -> None:
        """Starts it again whenever it ends by itself, until it is told to end: the head may be away for a while."""
        while not self.ending.wait(0.5):
            if self._process is not None and self._process.poll() is None:
                continue
            self._say(f"The fleet at {self.node.address} has gone away; joining again.")
            while not self.ending.wait(AGAIN_SECONDS):
                with contextlib.suppress(FleetError):
                    self.start()
                    self._say(f"This machine is in the fleet at {self.node.address} again.")
                    break
        self.stop()

    def stop(self) -> None:
        """Ends this node's own processes: those of the session that its `ray start` began."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while self._process.poll() is None or _of_session(self._process.pid):
            if time.monotonic() > deadline:
                for pid in _of_session(self._process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _of_session(leader: int) -> list[int]:
    """The processes of a session, which outlives its leader."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if pid > 1 and os.getsid(pid) == leader:
                found.append(pid)
    return found


def _last_words(words: bytes, node: Node) -> str:
    text = words.decode(errors="replace")
    if "AuthToken" in text:
        return f"The fleet at {node.address} refuses the token in {node.home / TOKEN_FILE}."
    lines = [line for line in text.splitlines() if line.strip()]
    said = lines[-1].strip()[:300] if lines else "it said nothing"
    return f"Ray doesn't start on this machine: {said}. All of it is in {node.log}."
