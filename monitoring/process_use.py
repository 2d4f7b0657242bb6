"""How hard the processes on the GPUs work: their share of a card by NVML, processor and memory by the kernel.

Runs in the agent, in the thread of the gate (`monitoring.nvml`), which hands over the pynvml module.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

SM_WINDOW_SECONDS = 2.0
"""NVML samples each process once a second or oftener, by the card: an older sample says nothing of now."""

SHORTEST_SPAN_SECONDS = 0.5
"""Over less than that the kernel's clock ticks are too coarse for a percentage; the last figures stand."""

MOST_KNOWN = 512


def sm_percents(nvml: Any, handle: Any, ask: Callable[..., Any], now: float) -> Callable[[int], int | None]:
    """From a pid to its share of the card's multiprocessors in percent, by its newest sample; `now` in Unix seconds.

    NVML has a sample for whoever kept the card busy at all, so without one it is 0; None where the driver or the card
    has no such figures (noted as `processes.utilization_sm_percent`). Raises NVMLError for a lost card.
    """
    since_microseconds = int((now - SM_WINDOW_SECONDS) * 1e6)

    def samples() -> list[Any]:
        try:
            return list(nvml.nvmlDeviceGetProcessUtilization(handle, since_microseconds))
        except nvml.NVMLError as error:
            # Nobody worked; an empty answer, too, is raised by pynvml.
            if error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS):
                return []
            raise

    found = ask("processes.utilization_sm_percent", samples)
    if found is None:
        return lambda pid: None
    # A driver may leave rows of nonsense between those that it has filled in.
    newest = {one.pid: int(one.smUtil) for one in sorted(found, key=lambda one: one.timeStamp) if one.smUtil <= 100}
    return lambda pid: newest.get(pid, 0)


@dataclass(frozen=True)
class HostUse:
    """What a process takes of the host. `cpu_percent`: 100 is one core; None until it was seen twice."""

    cpu_percent: float | None
    rss_bytes: int | None


NOTHING_KNOWN = HostUse(None, None)


@dataclass
class _Watched:
    process: psutil.Process
    looked_at: float
    use: HostUse


class HostUses:
    """Processor and memory of processes, each counted from one look to the next. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[tuple[int, int], _Watched] = {}

    def of(self, pid: int, start_ticks: int) -> HostUse:
        """What it has used since the last look, at least half a second ago; what can't be read is None."""
        with self._lock:
            key, now = (pid, start_ticks), time.monotonic()
            watched = self._watched.get(key)
            if watched is not None and now - watched.looked_at < SHORTEST_SPAN_SECONDS:
                return watched.use
            try:
                if watched is None:
                    watched = self._begin(key)
                    use = HostUse(None, _rss(watched.process))
                else:
                    use = HostUse(watched.process.cpu_percent(), _rss(watched.process))
            except psutil.Error:
                self._watched.pop(key, None)
                return NOTHING_KNOWN
            watched.looked_at, watched.use = now, use
            return use

    def _begin(self, key: tuple[int, int]) -> _Watched:
        """From this look on its processor time is counted."""
        if len(self._watched) >= MOST_KNOWN:
            self._watched.clear()
        process = psutil.Process(key[0])
        process.cpu_percent()
        watched = self._watched[key] = _Watched(process, 0.0, NOTHING_KNOWN)
        return watched


def _rss(process: psutil.Process) -> int:
    return int(process.memory_info().rss)
