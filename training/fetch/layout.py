"""Which files make a model, and whether the disk can hold them. Runs in the `fetch` job."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from monitoring.attempt import NO_ROOM, JobFaultError

WEIGHTS = "*.safetensors"
WANTED = (
    WEIGHTS, "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "README.md",
)  # fmt: skip
SPARE_BYTES = 256 << 20
"""What must stay free on the disk after a model has come."""


def wanted_names(names: Iterable[str]) -> list[str]:
    """The files of a repository or folder that make the model: top level only, no code, no pickles, weights once."""
    wanted = [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in WANTED)]
    if any(fnmatchcase(name, "model*.safetensors") for name in wanted):
        # Some repositories hold the same weights twice, the second time in their maker's own layout.
        wanted = [name for name in wanted if not fnmatchcase(name, "consolidated*")]
    return sorted(wanted)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises JobFaultError `disk_full` when the disk of `folder` can't hold so much more."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise disk_full(folder, needed_bytes, free_bytes)


@contextlib.contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """For a block that does nothing but write into `folder`: raises JobFaultError `disk_full` where there is no room.

    numpy says of a write that was cut short how many items are missing, and no more.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in NO_ROOM:
            raise disk_full(folder) from error
        raise


def disk_full(folder: Path, needed_bytes: int | None = None, free_bytes: int | None = None) -> JobFaultError:
    """The fault of a disk that is, or would become, full."""
    sizes = ""
    if needed_bytes is not None and free_bytes is not None:
        sizes = f": the model takes {needed_bytes / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free"
    return JobFaultError(
        "disk_full",
        f"The disk that holds {folder} is full{sizes}.",
        "Delete models, datasets or checkpoints that are no longer needed, or move PILOTHOUSE_HOME to a larger disk.",
    )
