"""What a host is and how it does: processor, memory, disks and GPUs.

Runs in the agent. A reading is taken at most once a second, however many ask.
"""

import importlib.metadata
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from monitoring.nvml import JobOfPid, NvmlGate
from monitoring.processes import boot_id
from monitoring.wire import DiskReading, HostFacts, HostReading

READING_SECONDS = 1.0
PACKED_FILE_SYSTEMS = frozenset({"squashfs", "iso9660", "erofs"})
"""Always full by nature; they say nothing about room."""


class HostMonitor:
    """Takes readings of this host. Thread-safe."""

    def __init__(self, home: Path, gate: NvmlGate, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._gate = gate
        self._clock = clock
        self._lock = threading.Lock()
        self._last: HostReading | None = None
        self._last_at = 0.0
        self._cpu_last = psutil.cpu_times()
        self._cpu_percent = 0.0

    def reading(self, job_of_pid: JobOfPid) -> HostReading:
        """The host now, or up to a second ago. `job_of_pid` tells which job a process on a GPU belongs to."""
        with self._lock:
            if self._last is None or self._clock() - self._last_at >= READING_SECONDS:
                self._last = self._read(job_of_pid)
                self._last_at = self._clock()
            return self._last

    def expire(self) -> None:
        """Makes the next reading a fresh one: something was changed."""
        with self._lock:
            self._last = None

    def _read(self, job_of_pid: JobOfPid) -> HostReading:
        memory = psutil.virtual_memory()
        snapshot = self._gate.read(job_of_pid)
        return HostReading(
            time=time.time(),
            cpu_percent=self._read_cpu_percent(),
            cpu_count=psutil.cpu_count() or 1,
            load_1m=os.getloadavg()[0],
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            swap_used_bytes=psutil.swap_memory().used,
            swap_total_bytes=psutil.swap_memory().total,
            disks=read_disks(self._home),
            networks=[],
            temperatures=[],
            clock_synchronized=None,
            gpus=snapshot.gpus,
            gpu_fault=snapshot.fault,
            gpu_fault_since=None,
        )

    def _read_cpu_percent(self) -> float:
        """Busy time since the last reading. (psutil's own function measures per calling thread; each poll has one.)"""
        last, now = self._cpu_last, psutil.cpu_times()
        total = sum(now[:8]) - sum(last[:8])  # user to steal; guest time is part of user time
        if total > 0:
            idle = now.idle + now.iowait - last.idle - last.iowait
            self._cpu_percent = round(min(max(100 * (1 - idle / total), 0.0), 100.0), 1)
            self._cpu_last = now
        return self._cpu_percent


def read_disks(home: Path) -> list[DiskReading]:
    """The file system that holds `home`, first, and the host's other local ones, each once."""
    mounts = [_mount_of(home)]
    mounts += [Path(p.mountpoint) for p in psutil.disk_partitions() if p.fstype not in PACKED_FILE_SYSTEMS]
    seen: set[int] = set()
    disks: list[DiskReading] = []
    for mount in mounts:
        try:
            device = mount.stat().st_dev
            usage = psutil.disk_usage(str(mount))
        except OSError:
            continue  # a mount that we may not look at, or that went away
        # A bind mount of a single file (containers have several) is no disk.
        if device in seen or not mount.is_dir() or usage.total == 0:
            continue
        seen.add(device)
        # As df has it: what root keeps for itself counts neither as used nor as free.
        disks.append(DiskReading(mount=str(mount), used_bytes=usage.used, total_bytes=usage.used + usage.free))
    return disks


def host_facts(home: Path, gate: NvmlGate, started_at: float) -> HostFacts:
    """What doesn't change while this agent runs."""
    driver, cuda = gate.versions()
    return HostFacts(
        name=socket.gethostname(),
        boot_id=boot_id(),
        agent_pid=os.getpid(),
        agent_version=_version(),
        started_at=started_at,
        platform=platform.platform(),
        python_version=platform.python_version(),
        cpu_name=_cpu_name(),
        cpu_count=psutil.cpu_count() or 1,
        memory_total_bytes=psutil.virtual_memory().total,
        driver_version=driver,
        cuda_driver_version=cuda,
        home=str(home),
    )


def _mount_of(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version() -> str:
    try:
        return importlib.metadata.version("pilothouse")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
