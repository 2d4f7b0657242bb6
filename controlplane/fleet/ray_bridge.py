"""The way to a fleet's hosts: a process that belongs to a Ray cluster and passes a web process's calls to its nodes.

A process of its own beside the web process, which starts it (`controlplane.fleet.ray`): Ray ends a process that has
lost its cluster, and no web process must end for that. With `ray_node`, the only module that imports Ray.

    python -m controlplane.fleet.ray_bridge ADDRESS SOCKET

It listens on SOCKET, writes `ready` to its standard output once it belongs to the cluster (or a sentence why it does
not), and ends when its standard input does. A request is two lines: {"host", "timeout_seconds", "lane"}, then the
line for the host's agent. The answer is the agent's, or {"unreachable": SENTENCE}; to {"members": true} it is
{"members": [Member, ...]}.
"""

import json
import logging
import os
import re
import socketserver
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.fleet.ray_members import Member, key_of
from monitoring.node_shell import NodeIdentity, NodeShell
from monitoring.server import LINE_BYTES, short_path

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
START_SECONDS = 60.0
AGAIN_SECONDS = 3.0
MARGIN_SECONDS = 5.0
"""By how much a call may take longer than the agent has for it."""

LANES = {"polls": 8, "signals": 8, "calls": 16}
"""Groups of calls that don't wait for one another, and how many of each a node answers at once."""

NAMESPACE = "pilothouse"
MOVES = "is in the cluster, but Pilothouse can't be reached on it"


@dataclass
class Node:
    """A node of the cluster that is up: its shell once there is one, and which host it is."""

    node_id: str
    address: str
    shell: Any = None
    who: NodeIdentity | None = None
    fault: str = ""
    tried_at: float = 0.0
    met: threading.Event = field(default_factory=threading.Event)


class Bridge:
    """All nodes, and calls to them. Thread-safe."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._lock = threading.Lock()

    def look(self) -> None:
        """Meets nodes that are new, forgets those that are gone. Called by one thread, again and again."""
        import ray

        alive = {row["NodeID"]: row["NodeManagerAddress"] for row in ray.nodes() if row["Alive"]}
        with self._lock:
            for gone in self._nodes.keys() - alive.keys():
                log.warning("node %s is gone", self._nodes.pop(gone).address)
            for node_id in alive.keys() - self._nodes.keys():
                self._nodes[node_id] = Node(node_id, alive[node_id])
            unmet = [
                node
                for node in self._nodes.values()
                if node.who is None and time.monotonic() - node.tried_at > AGAIN_SECONDS
            ]
        for node in unmet:
            node.tried_at = time.monotonic() + START_SECONDS  # not again while this try lasts
            threading.Thread(target=self._meet, args=(node,), daemon=True).start()

    def _meet(self, node: Node) -> None:
        """Puts a shell on a node, or finds the one that stands there, and asks which host it is."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        try:
            actor = ray.remote(num_cpus=0, max_restarts=0, concurrency_groups=LANES)(NodeShell)
            node.shell = actor.options(
                name=f"shell-{node.node_id}", namespace=NAMESPACE, lifetime="detached", get_if_exists=True,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            ).remote()  # fmt: skip
            who = node.shell.who.options(concurrency_group="calls").remote()
            node.who, node.fault = ray.get(who, timeout=START_SECONDS), ""
            log.info("node %s is %s", node.address, node.who)
        except Exception as error:  # a node that isn't ours, or goes as it comes: it is tried again
            node.fault = f"{node.address} {MOVES}: {_reason(error)}"
            log.warning("%s", node.fault)
        node.tried_at = time.monotonic()

    def members(self) -> list[Member]:
        """Every node that is up."""
        with self._lock:
            nodes = list(self._nodes.values())
        return [
            Member(
                key=key_of(node.who["home_id"], node.who["name"]) if node.who else "",
                node_id=node.node_id, address=node.address, fault=node.fault,
                version=node.who["version"] if node.who else "", boot_id=node.who["boot_id"] if node.who else "",
            )
            for node in nodes
        ]  # fmt: skip

    def call(self, host: str, request: bytes, timeout_seconds: float, lane: str) -> bytes:
        """The answer of a host's agent, or why there is none."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

        node = self._node_of(host)
        if node is None:
            return _unreachable("No node of the fleet is this host now.")
        try:
            answer = node.shell.call.options(concurrency_group=lane).remote(request, timeout_seconds)
            found: bytes = ray.get(answer, timeout=timeout_seconds + MARGIN_SECONDS)
        except RayTaskError as error:
            return _unreachable(f"The agent on {node.address} doesn't answer: {_reason(error)}")
        except GetTimeoutError:
            return _unreachable(f"{node.address} hasn't answered within {timeout_seconds:g} s.")
        except RayActorError as error:
            node.who, node.shell = None, None  # a new one is put there, if the node is still up
            return _unreachable(f"{node.address} is gone: {_reason(error)}")
        except RayError as error:
            return _unreachable(f"{node.address} can't be reached: {_reason(error)}")
        return found

    def _node_of(self, host: str) -> Node | None:
        """The node that came last: after a crash its forerunner counts as up for a while."""
        with self._lock:
            nodes = list(self._nodes.values())
        found = [node for node in nodes if node.who and key_of(node.who["home_id"], node.who["name"]) == host]
        return found[-1] if found else None


def _reason(error: Exception) -> str:
    """What went wrong, in a line: the cause's own words rather than Ray's trace of it."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    told = [line for line in lines if re.match(r"\w+(Error|Exception): ", line)]
    return (told[-1] if told else lines[0])[:300]


def _unreachable(sentence: str) -> bytes:
    return json.dumps({"unreachable": sentence}).encode() + b"\n"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    bridge: Bridge


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        head = json.loads(self.rfile.readline(LINE_BYTES))
        if head.get("members"):
            answer = json.dumps({"members": self.server.bridge.members()}).encode() + b"\n"
        else:
            request = self.rfile.readline(LINE_BYTES)
            answer = self.server.bridge.call(head["host"], request, head["timeout_seconds"], head["lane"])
        self.wfile.write(answer)


def main(arguments: list[str]) -> int:
    """Runs until standard input ends. 1, with a sentence, where the cluster lets nobody in."""
    import ray

    address, path = arguments[0], Path(arguments[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    said = os.dup(1)
    os.dup2(2, 1)  # Ray prints; only we may say something there
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except Exception as error:
        os.write(said, f"{_why_outside(address, error)}\n".encode())
        return 1
    bridge = Bridge()
    _listen(bridge, path)
    threading.Thread(target=_end_with_parent, args=(path,), daemon=True).start()
    os.write(said, b"ready\n")
    while True:
        bridge.look()
        time.sleep(LOOK_SECONDS)


def _listen(bridge: Bridge, path: Path) -> None:
    path.unlink(missing_ok=True)
    old_mask = os.umask(0o177)
    try:
        with short_path(path) as bindable:
            server = _Server(str(bindable), _Connection)
    finally:
        os.umask(old_mask)
    server.bridge = bridge
    threading.Thread(target=server.serve_forever, daemon=True).start()


def _end_with_parent(path: Path) -> None:
    sys.stdin.buffer.read()
    path.unlink(missing_ok=True)
    os._exit(0)  # what Ray would do at an orderly end takes seconds, and the cluster notices by itself


def _why_outside(address: str, error: Exception) -> str:
    text = f"{error} {error.__cause__}"
    if "AuthToken" in text or "Authentication" in text:
        return f"The fleet at {address} refuses this machine's token: it must hold the same fleet_token as the head."
    if "Version mismatch" in text:
        return f"The fleet at {address} runs another Ray or Python: bin/setup --extras ray on both machines."
    return f"The fleet at {address} doesn't answer: {_reason(error)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
