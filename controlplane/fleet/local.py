"""The carrier to the agent on this machine: its Unix socket, a connection a call.

Runs in the web process, in any thread.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from controlplane.fleet.protocol import (
    AgentRefusedError,
    Cursor,
    EndAnswer,
    HostFacts,
    HostUnreachableError,
    LaunchAnswer,
    LogBytes,
    LogPage,
    LogSlice,
    PersistenceAnswer,
    PollAnswer,
    PowerAnswer,
    SignalAnswer,
    StopAnswer,
    Wish,
)
from monitoring.server import ask
from monitoring.wire import AgentFaultError

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 40.0
"""The slowest calls are a launch on a loaded host and a power limit through sudo."""

MARGIN_SECONDS = 15.0
START_SECONDS = 60.0
OTHERS_START_SECONDS = 10.0
AGENT_VARIABLE = "PILOTHOUSE_AGENT"
"""`external`: somebody else (a service manager) starts the agent, so nothing here may."""


class LocalCarrier:
    """The agent that listens on `agent.sock` in a home. Implements `Carrier`."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()

    def describe(self) -> HostFacts:
        return cast(HostFacts, self._ask("describe", {}))

    def launch(self, spec: Mapping[str, Any], secrets: Mapping[str, str]) -> LaunchAnswer:
        return cast(LaunchAnswer, self._ask("launch", {"spec": dict(spec), "secrets": dict(secrets)}))

    def signal(self, job_id: int, attempt: int, wish: Wish) -> SignalAnswer:
        args = {"job_id": job_id, "attempt": attempt, "wish": wish.value}
        return cast(SignalAnswer, self._ask("signal", args))

    def poll(self, cursors: Sequence[Cursor], wait_seconds: float, samples_after: float | None = None) -> PollAnswer:
        args = {"cursors": list(cursors), "wait_seconds": wait_seconds, "samples_after": samples_after}
        answer = cast(PollAnswer, self._ask("poll", args, wait_seconds + MARGIN_SECONDS))
        answer["live"] = [(job_id, attempt) for job_id, attempt in answer["live"]]
        return answer

    def set_power(
        self, gpu_uuid: str, watts: float, *, strict: bool = False, restore_at_stop: bool = False
    ) -> PowerAnswer:
        args = {"gpu_uuid": gpu_uuid, "watts": watts, "strict": strict, "restore_at_stop": restore_at_stop}
        return cast(PowerAnswer, self._ask("set_power", args))

    def set_persistence(self, gpu_uuid: str, enabled: bool, *, restore_at_stop: bool = False) -> PersistenceAnswer:
        args = {"gpu_uuid": gpu_uuid, "enabled": enabled, "restore_at_stop": restore_at_stop}
        return cast(PersistenceAnswer, self._ask("set_persistence", args))

    def end_process(self, pid: int, start_ticks: int, boot_id: str, *, others: bool = False) -> EndAnswer:
        args = {"pid": pid, "start_ticks": start_ticks, "boot_id": boot_id, "others": others}
        return cast(EndAnswer, self._ask("end_process", args))

    def read_log(
        self, job_id: int, attempt: int, *, lines: int = 200, start: int | None = None, limit_bytes: int = 1 << 18
    ) -> LogSlice:
        args = {"job_id": job_id, "attempt": attempt, "lines": lines, "start": start, "limit_bytes": limit_bytes}
        return cast(LogSlice, self._ask("read_log", args))

    def page_log(
        self, job_id: int, attempt: int, *, before: int | None = None, after: int | None = None,
        number: int | None = None, lines: int = 200, level: str = "", search: str = "",
    ) -> LogPage:  # fmt: skip
        place = {"before": before, "after": after, "number": number}
        args = {"job_id": job_id, "attempt": attempt, **place, "lines": lines, "level": level, "search": search}
        return cast(LogPage, self._ask("page_log", args))

    def copy_log(self, job_id: int, attempt: int, *, start: int = 0) -> LogBytes:
        return cast(LogBytes, self._ask("copy_log", {"job_id": job_id, "attempt": attempt, "start": start}))

    def read_agent_log(self, lines: int = 200) -> LogSlice:
        return cast(LogSlice, self._ask("read_agent_log", {"lines": lines}))

    def stop_all(self, deadline_seconds: float) -> StopAnswer:
        args = {"deadline_seconds": deadline_seconds}
        answer = cast(StopAnswer, self._ask("stop_all", args, deadline_seconds + MARGIN_SECONDS))
        answer["ended"] = [(job_id, attempt) for job_id, attempt in answer["ended"]]
        answer["still_running"] = [(job_id, attempt) for job_id, attempt in answer["still_running"]]
        return answer

    def shutdown(self) -> None:
        self._ask("shutdown", {})

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
