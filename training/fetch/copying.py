"""Copying model files with progress. Runs in the `fetch` job."""

from collections.abc import Mapping
from pathlib import Path

from monitoring.events import EventWriter
from training.fetch.layout import require_space
from training.pacing import PacedProgress

BLOCK_BYTES = 4 << 20


def copy_files(files: Mapping[str, Path], folder: Path, events: EventWriter) -> None:
    """Copies each file to `folder` under its key. Raises JobFaultError `disk_full` before the first byte."""
    total = sum(path.stat().st_size for path in files.values())
    require_space(folder, total)
    progress = PacedProgress(events, "bytes", total)
    done = 0
    for name, path in files.items():
        with path.open("rb") as source, (folder / name).open("wb") as target:
            while block := source.read(BLOCK_BYTES):
                target.write(block)
                done += len(block)
                progress.update(done, name)
    progress.finish(done, "Copied")
