"""Progress at a pace that a browser can follow: many updates in, few events out.

Runs in the job processes that count bytes or rows (`fetch`, `validate`).
"""

import time

from monitoring.events import EventWriter, Progress

INTERVAL_SECONDS = 0.25


class PacedProgress:
    """Emits `progress` events at most once in `interval_seconds`, and always the last one."""

    def __init__(
        self, events: EventWriter, unit: str, total: float | None, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self.total = total
        self._events = events
        self._unit = unit
        self._interval_seconds = interval_seconds
        self._last_emitted = float("-inf")

    def update(self, done: float, note: str = "") -> None:
        """Says how far the job is, unless it has just done so."""
        now = time.monotonic()
        if now - self._last_emitted >= self._interval_seconds:
            self._last_emitted = now
            self._emit(done, note)

    def finish(self, done: float, note: str = "") -> None:
        """Says the last figure, whenever the one before was."""
        self._emit(done, note)

    def _emit(self, done: float, note: str) -> None:
        self._events.emit(Progress(done=done, total=self.total, unit=self._unit, note=note))
