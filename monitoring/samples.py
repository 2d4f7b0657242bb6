"""The last hour of a host's figures, a sample a second, whoever asks or not. Runs in the agent.

Samples stand on whole seconds of the host's clock and are kept packed: an hour of eight GPUs takes about 3 MB.
"""

import itertools
import logging
import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from monitoring.wire import HostReading, HostSample

log = logging.getLogger(__name__)

KEEP_SAMPLES = 3600
ANSWER_SAMPLES = 600
SET_BACK_SECONDS = 2.0
"""A clock that goes back by less is being corrected: samples pause until it has caught up. By more, it was set back."""

HOST_FIELDS = ("cpu_percent", "load_1m", "memory_used_bytes")
NETWORK_FIELDS = ("received_bytes_per_second", "sent_bytes_per_second")
GPU_FIELDS = (
    "power_draw_watts", "power_limit_watts", "temperature_celsius", "utilization_gpu_percent",
    "utilization_memory_percent", "memory_used_bytes", "fan_speed_percent", "clock_sm_mhz",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Packed:
    time: float
    names: tuple[str, ...]
    """The same object from sample to sample, as long as nothing appears or goes."""

    figures: "array[float]"


class SampleStore:
    """The last KEEP_SAMPLES samples, their times strictly increasing. Thread-safe.

    When the clock was set back, what lies in its future now is dropped: those times will come again. Whoever asks for
    what comes after such a time gets all since the clock was set back.
    """

    def __init__(self) -> None:
        self._samples: deque[_Packed] = deque(maxlen=KEEP_SAMPLES)
        self._era = -math.inf
        self._names: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def add(self, second: float, reading: HostReading) -> None:
        """Keeps a reading's figures as those of `second` (Unix time)."""
        values = figures_of(reading)
        with self._lock:
            if self._samples and second <= self._samples[-1].time:
                if second > self._samples[-1].time - SET_BACK_SECONDS:
                    return
                while self._samples and self._samples[-1].time >= second:
                    self._samples.pop()
                self._era = second
            if (names := tuple(values)) != self._names:
                self._names = names
            self._samples.append(_Packed(second, self._names, array("d", values.values())))

    def after(self, moment: float | None) -> list[HostSample]:
        """The oldest ANSWER_SAMPLES samples behind `moment` (None: of all that are kept), oldest first."""
        with self._lock:
            since = -math.inf if moment is None else moment
            if self._samples and since >= self._samples[-1].time + SET_BACK_SECONDS:
                since = self._era - 1.0
            behind = itertools.takewhile(lambda sample: sample.time > since, reversed(self._samples))
            chosen = list(behind)[: -ANSWER_SAMPLES - 1 : -1]
        return [
            HostSample(time=sample.time, values=dict(zip(sample.names, sample.figures, strict=True)))
            for sample in chosen
        ]


def figures_of(reading: HostReading) -> dict[str, float]:
    """A reading's plain figures by the names of `HostSample`; what isn't known is left out."""
    values: dict[str, float] = {name: reading[name] for name in HOST_FIELDS}  # type: ignore[literal-required]
    if reading["networks"]:
        for name in NETWORK_FIELDS:
            values[f"network_{name}"] = sum(one[name] for one in reading["networks"])  # type: ignore[literal-required]
    for gpu in reading["gpus"]:
        for name in GPU_FIELDS:
            figure = gpu[name]  # type: ignore[literal-required]
            if figure is not None:
                values[f"{gpu['uuid']}/{name}"] = figure
    return values


def next_second(now: float, last: float) -> float:
    """The next whole second, and never the same twice unless the clock was set back."""
    following = math.floor(now) + 1.0
    return last + 1.0 if last - SET_BACK_SECONDS < following <= last else following


class Sampler:
    """A thread that takes a reading every whole second and keeps its figures.

    It waits by the monotonic clock for the next whole second of the other one, and at most a moment each time: a clock
    that jumps costs no more than the sample that was just due.
    """

    def __init__(
        self, take: Callable[[], HostReading], store: SampleStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._take = take
        self._store = store
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a reading that hangs isn't waited for."""
        self._stopping.set()

    def _run(self) -> None:
        due = next_second(self._clock(), -math.inf)
        while not self._stopping.wait(min(max(due - self._clock(), 0.0), SET_BACK_SECONDS)):
            now = self._clock()
            second = due if abs(now - due) < 1.0 else float(math.floor(now))
            try:
                self._store.add(second, self._take())
            except Exception:  # this loop must live
                log.exception("a sample could not be taken")
            due = next_second(self._clock(), second)
