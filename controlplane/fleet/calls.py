"""Every call that an agent answers, as one question each; a carrier says how a question travels.

Runs in the web process, in any thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

from controlplane.fleet.files import HostFiles
from controlplane.fleet.protocol import (
    Cursor,
    EndAnswer,
    HostFacts,
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

TIMEOUT_SECONDS = 40.0
"""The slowest calls are a launch on a loaded host and a power limit through sudo."""

MARGIN_SECONDS = 15.0


class AgentCalls(ABC):
    """Implements `Carrier` but for `_ask`."""

    @abstractmethod
    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        """The agent's result. Raises HostUnreachableError, AgentRefusedError."""

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

    @property
    def files(self) -> HostFiles:
        """The files of its home."""
        return HostFiles(self._ask)
