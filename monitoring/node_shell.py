"""What stands on each node of a Ray cluster: it passes calls on to the node's own agent, which it starts where none is.

Runs in a Ray actor, pinned to its node; knows nothing of Ray. The agent is a process of its own and outlives it: a
child of Ray's would die with Ray.
"""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TypedDict

from monitoring.home_id import home_id
from monitoring.processes import boot_id
from monitoring.server import SOCKET_FILE, exchange
from monitoring.system import product_version

CHECKOUT = Path(__file__).resolve().parent.parent
HOME_VARIABLE = "PILOTHOUSE_HOME"
START_SECONDS = 60.0


class NodeIdentity(TypedDict):
    """Which host a node is. `boot_id` tells two machines apart that say the same."""

    home_id: str
    name: str
    version: str
    boot_id: str


class NodeShell:
    """One node's. Thread-safe."""

    def __init__(self) -> None:
        """Raises RuntimeError on a node that `bin/up --join` has not started."""
        if not os.environ.get(HOME_VARIABLE):
            raise RuntimeError(
                f"{HOME_VARIABLE} is not set on {socket.gethostname()}: start Ray there by bin/up --join."
            )
        self.home = Path(os.environ[HOME_VARIABLE]).resolve()
        self._starting = threading.Lock()

    def who(self) -> NodeIdentity:
        """Which host this is, whether its agent can be started or not."""
        return NodeIdentity(
            home_id=home_id(self.home), name=socket.gethostname(), version=product_version(), boot_id=boot_id()
        )

    def call(self, request: bytes, timeout_seconds: float) -> bytes:
        """The agent's answer to a line. Raises OSError where there is none and none can be started."""
        path = self.home / SOCKET_FILE
        try:
            return exchange(path, request, timeout_seconds)
        except (FileNotFoundError, ConnectionRefusedError):
            with self._starting:
                self._start_agent()
        return exchange(path, request, timeout_seconds)

    def _start_agent(self) -> None:
        """Starts an agent unless one runs; it leaves this process's session and forgets what Ray has set."""
        if os.environ.get("PILOTHOUSE_AGENT") == "external":
            raise ConnectionRefusedError(
                f"no agent answers on {self.home}; its service starts it: systemctl start pilothouse-agent"
            )
        command = [sys.executable, "-m", "monitoring", "agent", "--home", str(self.home), "--detach"]
        started = subprocess.run(
            command, cwd=CHECKOUT, env=_environment(), capture_output=True, text=True, timeout=START_SECONDS,
            check=False,
        )  # fmt: skip
        if started.returncode and "already runs" not in started.stderr:
            raise ConnectionRefusedError(started.stderr.strip() or "the agent ended at once")


def _environment() -> dict[str, str]:
    """What the node's owner has started Ray with: in its workers Ray hides GPUs, for one."""
    environ = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    pairs = (entry.partition("=") for entry in environ.decode(errors="surrogateescape").split("\0") if "=" in entry)
    return {name: value for name, _, value in pairs if not name.startswith("RAY_")}
