"""A folder takes another's place, and a kill at any moment loses neither. Standard library only.

The old folder waits beside its place as `.NAME.gone` until the new one stands there; what is to stay of it moves over
then. Whoever finds one left from a kill calls `settle`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from monitoring.files import publish_folder

Stays = Callable[[str], bool]
"""Whether what has this name in the old folder belongs to the place, not to what stood there."""


def swap_in(fresh: Path, final: Path, stays: Stays) -> None:
    """Puts `fresh` into its place in one step; what stood there goes."""
    settle(final, stays)
    if final.exists():
        final.rename(_gone(final))
    publish_folder(fresh, final)
    settle(final, stays)


def settle(final: Path, stays: Stays) -> None:
    """Ends a swap: back to the old folder where the new one isn't there yet, on to the end where it is."""
    gone = _gone(final)
    if not gone.is_dir():
        return
    if not final.exists():
        gone.rename(final)
        return
    for entry in gone.iterdir():
        if stays(entry.name) and not (final / entry.name).exists():
            entry.rename(final / entry.name)
    shutil.rmtree(gone)


def _gone(final: Path) -> Path:
    return final.with_name(f".{final.name}.gone")
