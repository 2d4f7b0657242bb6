"""How much lies under a folder, found without following links. Runs in the web process; knows no data base."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """Bytes that the files take on the disk, how many there are, and when the newest of all entries changed."""

    bytes: int = 0
    files: int = 0
    changed_at: float = 0.0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.bytes + other.bytes, self.files + other.files, max(self.changed_at, other.changed_at))


def measure(path: Path, deadline: float | None = None) -> Size:
    """The size of a file or folder; nothing where it has gone. Raises TimeoutError past `deadline` (time.monotonic)."""
    try:
        facts = path.lstat()
    except OSError:
        return Size()
    total = Size(facts.st_blocks * 512, 1, facts.st_mtime) if not path.is_dir() or path.is_symlink() else Size(
        0, 0, facts.st_mtime
    )  # fmt: skip
    return total if total.files else total + _inside(path, deadline)


def _inside(folder: Path, deadline: float | None) -> Size:
    total, waiting = Size(), [str(folder)]
    while waiting:
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(folder)
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += _of(entry)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # it has gone meanwhile, or may not be read
    return total


def _of(entry: "os.DirEntry[str]") -> Size:
    try:
        facts = entry.stat(follow_symlinks=False)
    except OSError:
        return Size()
    if entry.is_dir(follow_symlinks=False):
        return Size(0, 0, facts.st_mtime)
    return Size(facts.st_blocks * 512, 1, facts.st_mtime)
