"""The carrier to the agent on this machine: its Unix socket, a connection a call.

Runs in the web process, in any thread.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from controlplane.fleet.calls import TIMEOUT_SECONDS, AgentCalls
from controlplane.fleet.protocol import AgentRefusedError, HostFacts, HostUnreachableError
from monitoring.server import ask
from monitoring.wire import AgentFaultError

CHECKOUT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0
OTHERS_START_SECONDS = 10.0
AGENT_VARIABLE = "PILOTHOUSE_AGENT"
"""`external`: somebody else (a service manager) starts the agent, so nothing here may."""


class LocalCarrier(AgentCalls):
    """The agent that listens on `agent.sock` in a home."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()

    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        try:
            return ask(self.home, call, args, timeout_seconds)
        except AgentFaultError as error:
            raise AgentRefusedError(**error.fault) from error
        except OSError as error:
            raise HostUnreachableError(f"The agent of {self.home} doesn't answer: {error}.") from error


def ensure_agent(home: Path) -> HostFacts:
    """Starts a detached agent on a home where none answers; returns what the agent says of its host.

    With PILOTHOUSE_AGENT=external it waits for another's instead. Raises HostUnreachableError, with what the agent
    said, when there is none in the end.
    """
    carrier = LocalCarrier(home)
    try:
        return carrier.describe()
    except HostUnreachableError:
        if os.environ.get(AGENT_VARIABLE) == "external":
            return _await_agent(carrier)
        command = [sys.executable, "-m", "monitoring", "agent", "--home", str(carrier.home), "--detach"]
        started = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
    try:
        return carrier.describe()  # also where another starter was faster
    except HostUnreachableError as error:
        raise HostUnreachableError(started.stderr.strip() or str(error)) from error


def _await_agent(carrier: LocalCarrier) -> HostFacts:
    """An agent that a service manager starts: it may be on its way."""
    deadline = time.monotonic() + OTHERS_START_SECONDS
    while True:
        try:
            return carrier.describe()
        except HostUnreachableError as error:
            if time.monotonic() > deadline:
                fix = f"Its service starts it, and nobody else ({AGENT_VARIABLE}): systemctl start pilothouse-agent."
                raise HostUnreachableError(f"{error} {fix}") from error
            time.sleep(0.1)
