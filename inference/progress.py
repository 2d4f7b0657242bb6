"""How far a job has come: through its rows, or with loading its model. Told now and then. In the inference process;
knows no torch.
"""

import time
from typing import Protocol

from monitoring.events import EventWriter, Progress

PROGRESS_SECONDS = 0.25


class RowProgress:
    """Tells how many rows are done, at most four times a second, and how fast that goes. `done` counts on from it;
    `note` may change as it goes."""

    def __init__(self, events: EventWriter, total: int, *, done: int = 0, note: str = "", unit: str = "rows") -> None:
        self._events = events
        self._total = total
        self._began_with = self._done = done
        self.note = note
        self._unit = unit
        self._began = time.monotonic()
        self._told = float("-inf")
        self._tell(time.monotonic())

    def add(self, rows: int = 1) -> None:
        """So many more rows are done; with 0 it is told that the job still works."""
        self._done += rows
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS or self._done == self._total:
            self._tell(now)

    def _tell(self, now: float) -> None:
        self._told = now
        fresh, seconds = self._done - self._began_with, now - self._began
        pace = f"{fresh / seconds:.3g} {self._unit}/s" if fresh and seconds > 0 else ""
        note = ", ".join(filter(None, (self.note, pace)))
        self._events.emit(Progress(done=self._done, total=self._total, unit=self._unit, note=note))


class Report(Protocol):
    """Told in a few words what is being done, and how much of it is done."""

    def __call__(self, what: str) -> None:
        """The next stage begins."""

    def amount(self, done: float, total: float, unit: str) -> None:
        """So much of the present stage is done, in `unit` ("bytes", "tensors")."""


class StageProgress:
    """Tells the stages of a start as they begin, and amounts within one at most four times a second."""

    def __init__(self, events: EventWriter, stages: int) -> None:
        self._events = events
        self._stages = stages
        self._begun = 0
        self._note = ""
        self._told = float("-inf")

    def __call__(self, what: str) -> None:
        """The next stage begins."""
        self._note = what
        self._events.emit(Progress(min(self._begun, self._stages), self._stages, "steps", what))
        self._events.log(what)
        self._begun += 1
        self._told = float("-inf")

    def amount(self, done: float, total: float, unit: str) -> None:
        """So much of the present stage is done."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS or done >= total:
            self._told = now
            self._events.emit(Progress(done, total, unit, self._note))

    def finish(self, what: str) -> None:
        """All stages are done."""
        self._events.emit(Progress(self._stages, self._stages, "steps", what))


class NoReport:
    """Nobody is told."""

    def __call__(self, what: str) -> None:
        """Says nothing."""

    def amount(self, done: float, total: float, unit: str) -> None:
        """Says nothing."""


NO_REPORT: Report = NoReport()
