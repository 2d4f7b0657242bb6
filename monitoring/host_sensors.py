"""The host's own disks, network, temperatures and clock. Runs in the agent."""

import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from monitoring.deadline import DeadlineCaller, LateError
from monitoring.wire import DiskReading, NetworkReading, TemperatureReading

PACKED_FILE_SYSTEMS = frozenset({"squashfs", "iso9660", "erofs"})
"""Always full by nature; they say nothing about room."""

VIRTUAL_PREFIXES = (
    "lo",
    "docker",
    "veth",
    "br-",
    "virbr",
    "cni",
    "flannel",
    "cali",
    "vxlan",
    "ifb",
    "tun",
    "tap",
    "wg",
)
"""Interfaces whose bytes pass through another one too, or never leave the host."""

NETWORK_FOLDER = Path("/sys/class/net")
SETTLED_SECONDS = 0.2
"""A rate over less is noise."""

SLOW_SECONDS = 5.0
SLOW_DEADLINE_SECONDS = 2.0

CLOCK_ERROR_MICROSECONDS = 16_000_000
"""The kernel's largest estimate of its clock's error, which it reaches when nothing has set the clock for long."""


@dataclass(frozen=True)
class SlowFacts:
    """What is read every SLOW_SECONDS: it changes slowly, and a sick disk or sensor takes its time."""

    disks: list[DiskReading]
    temperatures: list[TemperatureReading]
    clock_synchronized: bool | None


class SlowSensors:
    """Reads SlowFacts in a thread with a deadline; what hangs leaves the last ones standing. For one thread."""

    def __init__(
        self,
        home: Path,
        deadline_seconds: float = SLOW_DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._clock = clock
        self._caller = DeadlineCaller("host-sensors", deadline_seconds)
        self._last = SlowFacts([], [], None)
        self._due = -math.inf

    def read(self) -> SlowFacts:
        """The facts, at most SLOW_SECONDS old unless something hangs."""
        if self._clock() >= self._due:
            self._due = self._clock() + SLOW_SECONDS
            try:
                self._last = self._caller.call(
                    lambda: SlowFacts(read_disks(self._home), read_temperatures(), is_clock_synchronized())
                )
            except LateError:
                return self._last
        return self._last

    def close(self) -> None:
        self._caller.close()


class NetworkMeter:
    """Bytes a second of each interface between two readings. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates: list[NetworkReading] = []
        self._counters = psutil.net_io_counters(pernic=True)
        self._measured_at = clock()

    def read(self) -> list[NetworkReading]:
        """Empty until there are two readings to compare."""
        now = self._clock()
        if (elapsed := now - self._measured_at) >= SETTLED_SECONDS:
            last, self._counters, self._measured_at = self._counters, psutil.net_io_counters(pernic=True), now
            outward = frozenset(outward_interfaces(list(self._counters)))
            self._rates = [
                NetworkReading(
                    name=name,
                    # Counters start anew when an interface does.
                    received_bytes_per_second=max(counted.bytes_recv - last[name].bytes_recv, 0) / elapsed,
                    sent_bytes_per_second=max(counted.bytes_sent - last[name].bytes_sent, 0) / elapsed,
                )
                for name, counted in sorted(self._counters.items())
                if name in last and name in outward
            ]
        return self._rates


def outward_interfaces(names: list[str], folder: Path = NETWORK_FOLDER) -> list[str]:
    """The interfaces that have a device behind them; in a container, where none has, those not virtual by name."""
    physical = [name for name in names if (folder / name / "device").exists()]
    return physical or [name for name in names if not name.startswith(VIRTUAL_PREFIXES)]


def read_temperatures() -> list[TemperatureReading]:
    """Every sensor that the kernel has, named by its chip and its label. Empty where it has none (most containers)."""
    try:
        chips = psutil.sensors_temperatures()
    except (OSError, ValueError):
        return []
    return [
        TemperatureReading(label=f"{chip} {sensor.label}".strip(), celsius=sensor.current)
        for chip, sensors in chips.items()
        for sensor in sensors
        if sensor.current is not None and math.isfinite(sensor.current)
    ]


class _Timex(ctypes.Structure):
    """The head of `struct timex` (adjtimex(2)); the rest is only room."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 256),
    ]


def is_clock_synchronized() -> bool | None:
    """Whether a time source disciplines the clock; None where the kernel doesn't tell.

    As systemd has it (timedatectl): by the kernel's own estimate of the error, whichever program sets the clock. The
    status bit STA_UNSYNC isn't asked: some programs leave it set to keep the kernel from writing the hardware clock.
    """
    answer = _Timex()
    try:
        if ctypes.CDLL(None).adjtimex(ctypes.byref(answer)) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return bool(answer.maxerror < CLOCK_ERROR_MICROSECONDS)


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


def _mount_of(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path
