"""Whether a disk has room for what is about to be written. Runs in the web process and in commands."""

import shutil
from pathlib import Path

from controlplane.errors import UnavailableError

SPARE_BYTES = 1 << 30
"""So much stays free beyond what is written."""

FREE_SOME = "Delete checkpoints or models, or clean the disk (Settings, Storage), then try again."


def require_room(folder: Path, needed_bytes: int, what: str, fix: str = FREE_SOME) -> None:
    """Raises UnavailableError where the disk of `folder` can't hold so much more and SPARE_BYTES."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise UnavailableError(
            f"The disk of {folder} has {free_bytes / 1e9:.1f} GB left; {what} needs {needed_bytes / 1e9:.1f} GB, and "
            f"{SPARE_BYTES / 1e9:.1f} GB must stay free. {fix}",
            retry_after_seconds=60,
        )
