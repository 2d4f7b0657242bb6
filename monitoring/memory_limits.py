"""How much memory a process may have, how much of that is free, and whether the kernel has ended any for want of it.

Runs in the supervisor and in the inference process; standard library only. `None`: this kernel doesn't tell.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


@dataclass(frozen=True)
class _Group:
    """A control group of either version: its folder, and what the files are called there."""

    folder: Path
    limit: str
    used: str
    reclaimable: str


def memory_limit_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """The host's memory, or the limit of the control group that this process is in where that is less."""
    limits = (_limit_of(group) for group in _groups(proc, cgroup))
    known = [limit for limit in (_host_bytes(proc, "MemTotal"), *limits) if limit is not None]
    return min(known, default=None)


def memory_free_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """What this process may still take: what is free on the host, or what its control group leaves where that is less.
    Files that the kernel holds in memory and nobody has used lately count as free, as they do on the host."""
    left = (_left_in(group) for group in _groups(proc, cgroup))
    known = [free for free in (_host_bytes(proc, "MemAvailable"), *left) if free is not None]
    return min(known, default=None)


def oom_kills(proc: Path = PROC) -> int | None:
    """How many processes the kernel has ended since it booted because memory had run out."""
    for line in _lines(proc / "vmstat"):
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return None


def _host_bytes(proc: Path, name: str) -> int | None:
    for line in _lines(proc / "meminfo"):
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _groups(proc: Path, cgroup: Path) -> Iterator[_Group]:
    """The process's control group and those around it, in either version of control groups."""
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = cgroup, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroup / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        around = [other for other in folder.parents if other.is_relative_to(root)]
        yield from (_Group(place, *names) for place in (folder, *around))


def _limit_of(group: _Group) -> int | None:
    return _number(group.folder / group.limit)


def _left_in(group: _Group) -> int | None:
    limit, used = _limit_of(group), _number(group.folder / group.used)
    if limit is None or used is None:
        return limit
    told = dict(line.split(" ", 1) for line in _lines(group.folder / "memory.stat"))
    return max(0, limit - used + int(told.get(group.reclaimable, 0)))


def _number(path: Path) -> int | None:
    """The number that a file holds; None where it holds none, such as "max"."""
    return next((int(line) for line in map(str.strip, _lines(path)) if line.isdigit()), None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
