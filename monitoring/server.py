"""The agent behind a Unix socket: one JSON object a line in, one out.

Runs in the agent's process. A request is {"call": NAME, "args": {...}}, its answer {"result": ...} or {"fault":
AgentFault}. A connection carries any number of calls, one after the other. Only the socket's owner can connect.
"""

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monitoring.agent import Agent
from monitoring.events import Wish
from monitoring.wire import AgentFault, AgentFaultError

log = logging.getLogger(__name__)

SOCKET_FILE = "agent.sock"
LOCK_FILE = "agent.lock"
LINE_BYTES = 16 << 20

Call = Callable[[Agent, dict[str, Any]], Any]

CALLS: dict[str, Call] = {
    "describe": lambda agent, args: agent.describe(**args),
    "launch": lambda agent, args: agent.launch(**args),
    "signal": lambda agent, args: agent.signal(**{**args, "wish": Wish(args["wish"])}),
    "poll": lambda agent, args: agent.poll(**args),
    "set_power": lambda agent, args: agent.set_power(**args),
    "set_persistence": lambda agent, args: agent.set_persistence(**args),
    "end_process": lambda agent, args: agent.end_process(**args),
    "read_log": lambda agent, args: agent.read_log(**args),
    "page_log": lambda agent, args: agent.page_log(**args),
    "copy_log": lambda agent, args: agent.copy_log(**args),
    "read_agent_log": lambda agent, args: agent.read_agent_log(**args),
    "stop_all": lambda agent, args: agent.stop_all(**args),
    "list_files": lambda agent, args: agent.files.list_files(**args),
    "read_block": lambda agent, args: agent.files.read_block(**args),
    "begin_files": lambda agent, args: agent.files.begin_files(**args),
    "write_block": lambda agent, args: agent.files.write_block(**args),
    "publish_files": lambda agent, args: agent.files.publish_files(**args),
    "remove_files": lambda agent, args: agent.files.remove_files(**args),
}
"""What can be called; `shutdown` beside them ends the server. The argument names are those of Agent's methods."""


class AgentRunsAlreadyError(Exception):
    """Another agent has this home."""


def serve(agent: Agent, on_ready: Callable[[], None]) -> None:
    """Answers calls until `shutdown` or SIGTERM or SIGINT. `on_ready` is called once the socket listens.

    Hold `sole_agent` around it. Runs in the main thread.
    """
    path = agent.home / SOCKET_FILE
    path.unlink(missing_ok=True)  # ours is the only agent, so a socket that is still there is a dead one's
    old_mask = os.umask(0o177)
    try:
        with short_path(path) as bindable:
            server = _Server(str(bindable), _Connection)
    finally:
        os.umask(old_mask)
    server.agent = agent
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.end())
    try:
        log.info("agent %d listens on %s", os.getpid(), path)
        on_ready()
        server.serve_forever(poll_interval=0.2)
    finally:
        agent.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)
        log.info("agent %d ends; jobs go on", os.getpid())


@contextmanager
def sole_agent(home: Path) -> Iterator[None]:
    """Holds `agent.lock`. Raises AgentRunsAlreadyError with a sentence when another agent does."""
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            raise AgentRunsAlreadyError(f"An agent (pid {holder}) already runs on {home}.") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def short_path(path: Path) -> Iterator[Path]:
    """A name for a socket that fits the 107 bytes that Unix has for it, however deep the folder lies."""
    if len(os.fsencode(path)) < 100:
        yield path
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}") / path.name
    finally:
        os.close(descriptor)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    agent: Agent

    def end(self) -> None:
        """Ends `serve_forever` from any thread, the server's own included."""
        threading.Thread(target=self.shutdown, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("a connection failed")


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    _ends = False

    def handle(self) -> None:
        try:
            while line := self.rfile.readline(LINE_BYTES):
                answer = self._answer(line)
                self.wfile.write(json.dumps(answer, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                if self._ends:  # only now: the process goes at once, and its last caller waits for this answer
                    self.server.end()
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.ECONNRESET}:  # else the caller has gone away: nothing to tell
                raise

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            name, args = request["call"], request.get("args", {})
            if name == "shutdown":
                self._ends = True
                return {"result": None}
            if name not in CALLS:
                raise AgentFaultError("bad_call", f"This agent knows no call {name!r}.", "Update the agent.")
            return {"result": CALLS[name](self.server.agent, args)}
        except AgentFaultError as error:
            return {"fault": error.fault}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("a bad call: %r", error, exc_info=True)
            return {"fault": AgentFault(code="bad_call", message=f"Not a call: {error}.", fix="")}
        except Exception as error:  # one call that fails must not end the connection in silence
            log.exception("a call failed")
            message = f"The agent failed: {type(error).__name__}: {error}."
            return {"fault": AgentFault(code="internal", message=message, fix="Read the agent's log.")}


def ask(home: Path, call: str, args: dict[str, Any], timeout_seconds: float) -> Any:
    """Calls the agent of a home and returns its result.

    Raises AgentFaultError for a refusal and OSError (TimeoutError included) when nobody answers.
    """
    request = json.dumps({"call": call, "args": args}, ensure_ascii=False).encode() + b"\n"
    return result_of(exchange(home / SOCKET_FILE, request, timeout_seconds))


def exchange(path: Path, request: bytes, timeout_seconds: float) -> bytes:
    """Sends lines to a socket and returns the line that comes back. Raises OSError (TimeoutError included)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        with short_path(path) as name:
            connection.connect(str(name))
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            line = stream.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the agent closed the connection before it had answered")
    return line


def result_of(line: bytes) -> Any:
    """The result in an agent's answer. Raises AgentFaultError."""
    answer = json.loads(line)
    if "fault" in answer:
        fault = answer["fault"]
        raise AgentFaultError(fault["code"], fault["message"], fault["fix"])
    return answer["result"]
