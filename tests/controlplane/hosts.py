"""Hosts that aren't here: what their agents would answer, and what they were asked. `AbsentHost` is a `Carrier`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass
class ScriptedCard:
    """A GPU of a host that isn't here. `refuse`: what it says to a change, or the error that comes instead."""

    limit_watts: float = 350.0
    persistence: bool = False
    refuse: str | Exception | None = None
    asked: list[Any] = field(default_factory=list)
    """Every limit (watts) and persistence mode (bool) that it was asked for."""

    before_answer: Callable[[], None] | None = None
    """Called in the middle of a change."""


class AbsentHost:
    """Stands for a machine. `refusal`: what it says to a launch; `news` and `live`: what the next poll brings.

    `cards` by UUID, made when they are asked for. `restore_at_stop`: what came with the last change.
    """

    def __init__(self) -> None:
        self.cards: dict[str, ScriptedCard] = {}
        self.restore_at_stop: bool | None = None
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
        card = self._change(gpu_uuid, watts, restore_at_stop)
        if not card.refuse:
            card.limit_watts = watts
        refused = _refusal(card)
        return PowerAnswer(
            uuid=gpu_uuid, asked_watts=watts, applied_watts=card.limit_watts, clamped=False, set=refused is None,
            method=None if refused else "nvml", refused_by="nvml" if refused else None, reason=refused,
            fix="Run as root." if refused else None,
        )  # fmt: skip

    def set_persistence(self, gpu_uuid: str, enabled: bool, *, restore_at_stop: bool = False) -> PersistenceAnswer:
        card = self._change(gpu_uuid, enabled, restore_at_stop)
        if not card.refuse:
            card.persistence = enabled
        refused = _refusal(card)
        return PersistenceAnswer(
            uuid=gpu_uuid, asked=enabled, enabled=card.persistence, set=refused is None,
            method=None if refused else "nvml", refused_by="nvml" if refused else None, reason=refused,
            fix="Run as root." if refused else None,
        )  # fmt: skip

    def card(self, gpu_uuid: str) -> ScriptedCard:
        """One of its GPUs."""
        return self.cards.setdefault(gpu_uuid, ScriptedCard())

    def _change(self, gpu_uuid: str, wanted: float | bool, restore_at_stop: bool) -> ScriptedCard:
        card = self.card(gpu_uuid)
        card.asked.append(wanted)
        self.restore_at_stop = restore_at_stop
        if card.before_answer is not None:
            card.before_answer()
        if isinstance(card.refuse, Exception):
            raise card.refuse
        return card

    def end_process(self, pid: int, start_ticks: int, boot_id: str, *, others: bool = False) -> EndAnswer:
        raise NotImplementedError

    def read_log(self, job_id: int, attempt: int, **_how: Any) -> LogSlice:
        raise NotImplementedError

    def page_log(self, job_id: int, attempt: int, **_how: Any) -> LogPage:
        raise NotImplementedError

    def copy_log(self, job_id: int, attempt: int, *, start: int = 0) -> LogBytes:
        raise NotImplementedError

    def read_agent_log(self, lines: int) -> list[str]:
        raise NotImplementedError

    def stop_all(self, deadline_seconds: float) -> StopAnswer:
        raise NotImplementedError

    def shutdown(self) -> None:
        raise NotImplementedError


class EndingAgent:
    """Stands for an agent that is asked to end processes: what it answers, or raises, and what it was asked."""

    def __init__(self) -> None:
        self.answer: EndAnswer | Exception = EndAnswer(ended=True, reason=None)
        self.asked: list[tuple[int, int, str, bool]] = []

    def end_process(self, pid: int, start_ticks: int, boot_id: str, *, others: bool = False) -> EndAnswer:
        self.asked.append((pid, start_ticks, boot_id, others))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _refusal(card: ScriptedCard) -> str | None:
    return str(card.refuse) if card.refuse else None
