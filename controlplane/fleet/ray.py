"""The carrier to a host of a Ray cluster, by way of the bridge (`ray_bridge`), which this process starts and keeps.

Runs in the web process, in any thread. Imports no Ray.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

from controlplane.fleet.calls import TIMEOUT_SECONDS, AgentCalls
from controlplane.fleet.local import CHECKOUT
from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError
from controlplane.fleet.ray_members import Member
from controlplane.fleet.ray_token import environment_of
from monitoring.server import exchange, result_of
from monitoring.wire import AgentFaultError

log = logging.getLogger(__name__)
LANES = {"poll": "polls", "signal": "signals", "launch": "signals"}
"""What doesn't wait for anything else. A long poll must not hold up a stop, nor a block of a file either."""

MARGIN_SECONDS = 10.0
MEMBERS_SECONDS = 5.0
AGAIN_SECONDS = 5.0
READY = "ready"


class RayCarrier(AgentCalls):
    """The agent of one host of the fleet, whichever node that is now. `key`: `ray_members.key_of`."""

    def __init__(self, bridge: "RayBridge", key: str) -> None:
        self._bridge = bridge
        self._key = key

    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        head = {"host": self._key, "timeout_seconds": timeout_seconds, "lane": LANES.get(call, "calls")}
        line = self._bridge.exchange(head, {"call": call, "args": args}, timeout_seconds + MARGIN_SECONDS)
        if line.startswith(b'{"unreachable":'):
            raise HostUnreachableError(json.loads(line)["unreachable"])
        try:
            return result_of(line)
        except AgentFaultError as error:
            raise AgentRefusedError(**error.fault) from error


class NoFleet(AgentCalls):
    """A host of a fleet, for a web process that belongs to none any more."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        raise HostUnreachableError(f"{self._name} is a host of a fleet: start the web server with RAY_ADDRESS.")


class RayBridge:
    """This process's bridge to the cluster at an address: started at the first call, and again where it has ended."""

    def __init__(self, address: str, home: Path) -> None:
        self.address = address
        self._home = home
        self._socket = home / "tmp" / f"ray-bridge-{os.getpid()}.sock"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ready = False
        self._fault = f"The connection to the fleet at {address} is being made."
        self._tried_at = -AGAIN_SECONDS
        self._closed = False

    @property
    def is_up(self) -> bool:
        """Whether it belongs to the cluster now: without that nobody knows how the hosts are."""
        return self._ready and self._process is not None and self._process.poll() is None

    def members(self) -> list[Member]:
        """Every node of the cluster that is up. Raises HostUnreachableError."""
        line = self.exchange({"members": True}, None, MEMBERS_SECONDS)
        return cast(list[Member], json.loads(line)["members"])

    def exchange(self, head: dict[str, Any], request: dict[str, Any] | None, timeout_seconds: float) -> bytes:
        """The bridge's answer. Raises HostUnreachableError, at once while there is no bridge."""
        self._ensure()
        if not self.is_up:
            raise HostUnreachableError(self._fault)
        lines = [head] if request is None else [head, request]
        data = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
        try:
            return exchange(self._socket, data, timeout_seconds)
        except OSError as error:
            raise HostUnreachableError(f"The fleet at {self.address} doesn't answer: {error}.") from error

    def close(self) -> None:
        """Ends the bridge, by force where it is still on its way into the cluster; that and its agents go on."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(MEMBERS_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _ensure(self) -> None:
        with self._lock:
            if self._closed or (self._process is not None and self._process.poll() is None):
                return
            if time.monotonic() - self._tried_at < AGAIN_SECONDS:
                return
            self._tried_at = time.monotonic()
            self._ready = False
            self._socket.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "controlplane.fleet.ray_bridge", self.address, str(self._socket)]
            with (self._home / "logs" / "ray-bridge.log").open("ab") as said:
                self._process = subprocess.Popen(
                    command, cwd=CHECKOUT, env={**os.environ, **environment_of(self._home)}, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True,
                )  # fmt: skip
            threading.Thread(target=self._hear, args=(self._process,), daemon=True).start()

    def _hear(self, process: "subprocess.Popen[str]") -> None:
        """Learns that it is ready, or its last words."""
        words: deque[str] = deque(maxlen=1)
        for line in process.stdout or ():
            if line.strip() == READY:
                self._ready = True
                log.info("this process belongs to the fleet at %s", self.address)
            else:
                words.append(line.strip())
        self._ready = False
        self._fault = words[0] if words else f"The fleet at {self.address} has gone away; connecting again."
        if not self._closed:
            log.warning("%s", self._fault)
