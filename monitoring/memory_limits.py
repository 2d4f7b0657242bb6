"""How much memory a process may have, and whether the kernel has ended any for want of it.

Runs in the supervisor; standard library only. `None`: this kernel doesn't tell.
"""

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def memory_limit_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """The host's memory, or the limit of the control group that this process is in where that is less."""
    known = [limit for limit in (_host_bytes(proc), *_group_limits(proc, cgroup)) if limit is not None]
    return min(known, default=None)


def oom_kills(proc: Path = PROC) -> int | None:
    """How many processes the kernel has ended since it booted because memory had run out."""
    for line in _lines(proc / "vmstat"):
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return None


def _host_bytes(proc: Path) -> int | None:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _group_limits(proc: Path, cgroup: Path) -> list[int]:
    """The limits of the process's control group and of those around it, in either version of control groups."""
    limits: list[int] = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = cgroup, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroup / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        around = [other for other in folder.parents if other.is_relative_to(root)]
        told = [text.strip() for place in (folder, *around) for text in _lines(place / name)]
        limits += [int(text) for text in told if text.isdigit()]
    return limits


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
