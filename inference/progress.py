"""How far a job that works through rows has come, told now and then. Runs in the inference process; knows no torch."""

import time

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
