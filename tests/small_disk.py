"""A disk of a few megabytes that a test can fill to the last byte: a tmpfs of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BALLAST = "ballast"


class SmallDisk:
    """The disk at `path`. What fills it is one file, which `empty` removes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free_bytes(self) -> int:
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize

    def fill(self) -> None:
        """Takes all that is free, as another program would."""
        with (self.path / BALLAST).open("ab") as stream:
            while (free := self.free_bytes) > 0:
                os.posix_fallocate(stream.fileno(), os.fstat(stream.fileno()).st_size, free)

    def empty(self) -> None:
        """Gives back what `fill` took."""
        (self.path / BALLAST).unlink()

    def grow(self, size_bytes: int) -> None:
        """Makes it larger."""
        mount("-o", f"remount,size={size_bytes}", str(self.path))


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """A disk of that size at `path` for a block. Skips the test where this process may not mount one."""
    path.mkdir(parents=True)
    if refusal := mount("-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(path)):
        pytest.skip(f"no disk of its own can be mounted here: {refusal}")
    try:
        yield SmallDisk(path)
    finally:
        _do("umount", "--lazy", str(path))


def mount(*arguments: str) -> str:
    """Mounts; returns why it could not."""
    return _do("mount", *arguments)


def _do(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        return f"there is no {program}"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return (done.stderr.strip() or f"{program} ended with {done.returncode}") if done.returncode else ""
