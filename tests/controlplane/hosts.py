"""A host that isn't here: what its agent would answer, and what it was asked. Implements `Carrier`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from controlplane.fleet.protocol import (
    AgentRefusedError,
    AttemptNews,
    Cursor,
    EndAnswer,
    HostFacts,
    HostReading,
    HostSample,
    LaunchAnswer,
    LogSlice,
    PersistenceAnswer,
    PollAnswer,
    PowerAnswer,
    SignalAnswer,
    StopAnswer,
    Wish,
)


class AbsentHost:
    """Stands for a machine. `refusal`: what it says to a launch; `news` and `live`: what the next poll brings."""

    def __init__(self) -> None:
        self.refusal: AgentRefusedError | None = None
        self.launched: list[tuple[int, int]] = []
        self.signals: list[tuple[int, int, Wish]] = []
        self.news: list[AttemptNews] = []
        self.live: list[tuple[int, int]] = []
        self.reading: dict[str, Any] = {}
        self.samples: list[HostSample] = []

    def describe(self) -> HostFacts:
        raise NotImplementedError

    def launch(self, spec: Mapping[str, Any], secrets: Mapping[str, str]) -> LaunchAnswer:
        if self.refusal is not None:
            raise self.refusal
        self.launched.append((spec["job_id"], spec["attempt"]))
        return LaunchAnswer(adopted=False, pid=4)

    def signal(self, job_id: int, attempt: int, wish: Wish) -> SignalAnswer:
        self.signals.append((job_id, attempt, wish))
        return cast(SignalAnswer, {"delivered": True, "state": "running"})

    def poll(self, cursors: Sequence[Cursor], wait_seconds: float, samples_after: float | None = None) -> PollAnswer:
        samples = [sample for sample in self.samples if samples_after is None or sample["time"] > samples_after]
        reading = cast(HostReading, self.reading)
        return PollAnswer(now=time.time(), attempts=self.news, reading=reading, samples=samples, live=self.live)

    def set_power(
        self, gpu_uuid: str, watts: float, *, strict: bool = False, restore_at_stop: bool = False
    ) -> PowerAnswer:
        raise NotImplementedError

    def set_persistence(self, gpu_uuid: str, enabled: bool, *, restore_at_stop: bool = False) -> PersistenceAnswer:
        raise NotImplementedError

    def end_process(self, pid: int, start_ticks: int, boot_id: str, *, others: bool = False) -> EndAnswer:
        raise NotImplementedError

    def read_log(self, job_id: int, attempt: int, **_how: Any) -> LogSlice:
        raise NotImplementedError

    def read_agent_log(self, lines: int) -> list[str]:
        raise NotImplementedError

    def stop_all(self, deadline_seconds: float) -> StopAnswer:
        raise NotImplementedError

    def shutdown(self) -> None:
        raise NotImplementedError
