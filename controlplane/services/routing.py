"""Which engine a request goes to: of a model's ready ones the least busy. Runs in the web process.

What is in flight and when an engine was last asked is kept in the memory of this process, which is where requests pass
through; a restart begins anew with nothing in flight, which is then true. Of several web processes each hears once a
second what the others have (`services.neighbours`).
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """A ready engine and how to speak to it. A process that took another's place is another engine."""

    deployment_id: int
    attempt_number: int
    model_name: str
    base_url: str
    headers: dict[str, str]

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from every other one."""
        return self.deployment_id, self.attempt_number


NOT_ASKED = 0, 0.0
"""Requests in flight of an engine that nobody has asked, and when it was asked last."""


class Traffic:
    """How many requests each deployment has in flight, and since when it has none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: Counter[int] = Counter()
        self._used_at: dict[int, float] = {}
        self._began = time.monotonic()
        self._elsewhere: Mapping[int, tuple[int, float]] = {}

    def begin(self, deployment_id: int) -> None:
        """A request goes to it."""
        with self._lock:
            self._in_flight[deployment_id] += 1
            self._used_at[deployment_id] = time.monotonic()

    def end(self, deployment_id: int) -> None:
        """The request has its answer, or none will come."""
        with self._lock:
            self._in_flight[deployment_id] -= 1
            self._used_at[deployment_id] = time.monotonic()

    def in_flight(self, deployment_id: int) -> int:
        """Requests that it is working on."""
        return self._in_flight[deployment_id] + self._elsewhere.get(deployment_id, NOT_ASKED)[0]

    def idle_seconds(self, deployment_id: int) -> float:
        """How long it has had nothing to do, as far as this process knows: at most since it began."""
        if self.in_flight(deployment_id):
            return 0.0
        return time.monotonic() - self._last_used(deployment_id, self._began)

    def _last_used(self, deployment_id: int, otherwise: float) -> float:
        here = self._used_at.get(deployment_id, otherwise)
        return max(here, self._elsewhere.get(deployment_id, NOT_ASKED)[1])

    def least_busy(self, engines: Sequence[Engine], tried: Collection[tuple[int, int]] = ()) -> Engine | None:
        """The engine with the fewest requests in flight that wasn't tried; of equals the one that rests longest."""
        left = [engine for engine in engines if engine.key not in tried]

        def burden(engine: Engine) -> tuple[int, float]:
            return self.in_flight(engine.deployment_id), self._last_used(engine.deployment_id, 0.0)

        return min(left, key=burden, default=None)

    def told(self) -> list[list[float]]:
        """What other web processes must know: deployment, requests in flight, seconds since it was last asked."""
        now = time.monotonic()
        with self._lock:
            return [[key, self._in_flight[key], round(now - used, 3)] for key, used in self._used_at.items()]

    def hear(self, told: Iterable[list[list[float]]]) -> None:
        """What the other web processes have told, each its own."""
        now = time.monotonic()
        found: dict[int, tuple[int, float]] = {}
        for deployment, in_flight, idle_seconds in (row for rows in told for row in rows):
            count, used_at = found.get(int(deployment), NOT_ASKED)
            found[int(deployment)] = count + int(in_flight), max(used_at, now - idle_seconds)
        self._elsewhere = found


traffic = Traffic()


class WaitingRoom:
    """Requests that wait for an engine, at most as many as it is told. `look_again` wakes all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asleep: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._count = 0

    @contextlib.contextmanager
    def seat(self, limit: int) -> Iterator[bool]:
        """Whether there was a place; it is given up at the end of the block."""
        with self._lock:
            seated = self._count < limit
            self._count += seated
        try:
            yield seated
        finally:
            with self._lock:
                self._count -= seated

    def __len__(self) -> int:
        return self._count

    async def sleep(self, timeout_seconds: float) -> None:
        """Returns when an engine has changed, or after the time: another process may have changed it."""
        entry = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._asleep.add(entry)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(entry[1].wait(), timeout_seconds)
        finally:
            with self._lock:
                self._asleep.discard(entry)

    def look_again(self) -> None:
        """Wakes everybody. From any thread."""
        with self._lock:
            asleep = list(self._asleep)
        for loop, event in asleep:
            with contextlib.suppress(RuntimeError):  # a loop that has just been closed waits for nothing
                loop.call_soon_threadsafe(event.set)


waiting_room = WaitingRoom()
