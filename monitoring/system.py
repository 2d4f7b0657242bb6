"""What a host is and how it does: processor, memory, disks, network and GPUs. Runs in the agent."""

import importlib.metadata
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from monitoring.cards import DescribeProcess
from monitoring.home_id import home_id
from monitoring.host_sensors import SETTLED_SECONDS, NetworkMeter, SlowSensors
from monitoring.nvml import NvmlGate
from monitoring.processes import boot_id
from monitoring.wire import HostFacts, HostReading


class HostMonitor:
    """Takes readings of this host and keeps the last. Thread-safe. `describer` makes a function for one reading."""

    def __init__(self, home: Path, gate: NvmlGate, describer: Callable[[], DescribeProcess]) -> None:
        self._gate = gate
        self._describer = describer
        self._taking = threading.Lock()
        self._state = threading.Lock()
        self._last: HostReading | None = None
        self._generation = 0
        self._slow = SlowSensors(home)
        self._network = NetworkMeter()
        self._cpu_last = psutil.cpu_times()
        self._cpu_last_at = time.monotonic()
        self._cpu_percent = 0.0

    def reading(self) -> HostReading:
        """The last reading that was taken, or a fresh one where there is none or something was changed since."""
        return self._kept() or self._take_unless_kept()

    def take(self) -> HostReading:
        """Takes a reading now. Two threads take turns."""
        with self._taking:
            return self._take()

    def expire(self) -> None:
        """Makes the next reading a fresh one: something was changed."""
        with self._state:
            self._generation += 1
            self._last = None

    def close(self) -> None:
        """Lets the threads behind it end."""
        self._slow.close()

    def _kept(self) -> HostReading | None:
        with self._state:
            return self._last

    def _take_unless_kept(self) -> HostReading:
        with self._taking:
            return self._kept() or self._take()

    def _take(self) -> HostReading:
        generation = self._generation
        reading = self._read()
        with self._state:
            if generation == self._generation:  # else it may show what was before the change
                self._last = reading
        return reading

    def _read(self) -> HostReading:
        memory, swap, slow = psutil.virtual_memory(), psutil.swap_memory(), self._slow.read()
        snapshot = self._gate.read(self._describer())
        return HostReading(
            time=time.time(),
            cpu_percent=self._read_cpu_percent(),
            cpu_count=psutil.cpu_count() or 1,
            load_1m=os.getloadavg()[0],
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            swap_used_bytes=swap.used,
            swap_total_bytes=swap.total,
            disks=slow.disks,
            networks=self._network.read(),
            temperatures=slow.temperatures,
            clock_synchronized=slow.clock_synchronized,
            gpus=snapshot.gpus,
            gpu_fault=snapshot.fault,
            gpu_fault_since=snapshot.fault_since,
        )

    def _read_cpu_percent(self) -> float:
        """Busy time since the last reading. (psutil's own function measures per calling thread; each poll has one.)"""
        last, now = self._cpu_last, psutil.cpu_times()
        total = sum(now[:8]) - sum(last[:8])  # user to steal; guest time is part of user time
        if total > 0 and time.monotonic() - self._cpu_last_at >= SETTLED_SECONDS:
            idle = now.idle + now.iowait - last.idle - last.iowait
            self._cpu_percent = round(min(max(100 * (1 - idle / total), 0.0), 100.0), 1)
            self._cpu_last, self._cpu_last_at = now, time.monotonic()
        return self._cpu_percent


def host_facts(home: Path, gate: NvmlGate, started_at: float) -> HostFacts:
    """What doesn't change while this agent runs."""
    driver, cuda = gate.versions()
    return HostFacts(
        name=socket.gethostname(),
        boot_id=boot_id(),
        agent_pid=os.getpid(),
        agent_version=product_version(),
        started_at=started_at,
        platform=platform.platform(),
        python_version=platform.python_version(),
        cpu_name=_cpu_name(),
        cpu_count=psutil.cpu_count() or 1,
        memory_total_bytes=psutil.virtual_memory().total,
        driver_version=driver,
        cuda_driver_version=cuda,
        home=str(home),
        home_id=home_id(home),
    )


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def product_version() -> str:
    """The version of Pilothouse that is installed here, or "unknown"."""
    try:
        return importlib.metadata.version("pilothouse")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
