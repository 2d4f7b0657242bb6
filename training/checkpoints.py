"""Checkpoints on disk: complete or not there, verified before use, and no more of them than the run may keep.

Runs in the training process and wherever a checkpoint is listed; imports neither torch nor transformers. A checkpoint
is a folder `checkpoints/step-N` that was written under a hidden name beside its place and renamed when all its files
and the manifest, which holds their hashes, were on disk.
"""

import contextlib
import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monitoring.attempt import NO_ROOM, JobFaultError
from monitoring.events import decode_number, encode_number
from monitoring.files import hashes_of, publish_folder, sha256_of, write_json

FOLDER = "checkpoints"
MANIFEST_FILE = "manifest.json"
_NAME = re.compile(r"step-(\d+)")
KEEP_MARKS = "keep.*"
"""Files beside a manifest that say that the checkpoint stays: `keep.pin` of a person's, `keep.ID` of a model's that was
made of it, `keep.snapshot` while it is copied away. The control plane writes them, retention heeds them."""

SPARE_BYTES = 64 << 20
"""Less free space than this after a failed write means that the disk is full, whatever the writer says."""


class DamagedCheckpointError(JobFaultError):
    """A folder that is not a whole checkpoint."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            "checkpoint_damaged",
            f"The checkpoint {path} can't be used: {reason}.",
            "Resume from an earlier one.",
        )


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself. `files` maps each file to its size in bytes and SHA-256; `profile` has name
    and version of the one that the examples went through.
    """

    step: int
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The bytes of all files, without the manifest."""
        return sum(int(item["bytes"]) for item in self.files.values())

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        numbers = {name: getattr(self, name) for name in ("epoch", "loss", "eval_loss")}
        coded = {name: None if value is None else encode_number(value) for name, value in numbers.items()}
        return {"step": self.step, **coded, "run": self.run, "profile": self.profile, "files": self.files}


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, in the folder of checkpoints."""
    return folder / f"step-{step}"


def steps(folder: Path) -> list[int]:
    """The steps of which there is a checkpoint, in order; none of them verified."""
    if not folder.is_dir():
        return []
    names = (_NAME.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_dir())
    return sorted(int(name[1]) for name in names if name)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint. Raises DamagedCheckpointError."""
    try:
        value = json.loads((path / MANIFEST_FILE).read_text())
        numbers = {name: value[name] for name in ("epoch", "loss", "eval_loss")}
        decoded = {name: None if item is None else decode_number(item) for name, item in numbers.items()}
        files, run, profile = dict(value["files"]), dict(value["run"]), dict(value.get("profile", {}))
        return Manifest(step=int(value["step"]), files=files, run=run, profile=profile, **decoded)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(path, f"it has no {MANIFEST_FILE}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(path, f"its manifest can't be read ({error})") from error


def verify(path: Path) -> Manifest:
    """Reads every file of a checkpoint and compares it with the manifest. Raises DamagedCheckpointError."""
    manifest = read_manifest(path)
    for name, item in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise DamagedCheckpointError(path, f"{name} is missing")
        if file.stat().st_size != item["bytes"]:
            raise DamagedCheckpointError(path, f"{name} has {file.stat().st_size} bytes instead of {item['bytes']}")
        if sha256_of(file) != item["sha256"]:
            raise DamagedCheckpointError(path, f"{name} is not what was written")
    return manifest


def latest(folder: Path) -> Path | None:
    """The last whole checkpoint in the folder of checkpoints; a damaged one is passed over."""
    for step in reversed(steps(folder)):
        path = path_of(folder, step)
        with contextlib.suppress(DamagedCheckpointError):
            verify(path)
            return path
    return None


def unfinished(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is while it is written."""
    return folder / f".step-{step}.part"


@contextlib.contextmanager
def writing(folder: Path, step: int, needed_bytes: int | None = None) -> Iterator[Path]:
    """A hidden folder to write a checkpoint into; it is removed when the block raises, and otherwise left.

    Raises JobFaultError `disk_full` where the disk is the reason; `needed_bytes` must be free to write it after all.
    """
    temporary = unfinished(folder, step)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException as error:
        full = isinstance(error, Exception) and is_disk_full(error, folder)
        shutil.rmtree(temporary, ignore_errors=True)
        if full:
            raise disk_full(folder, error, needed_bytes) from error
        raise


def publish(temporary: Path, folder: Path, manifest: Manifest) -> tuple[Path, Manifest, str]:
    """Adds the manifest to a written checkpoint and moves it to its place, synced.

    Returns the place, the manifest with the files, and the manifest's hash. What stood there before is removed first.
    """
    hashes = hashes_of(temporary)
    files = {name: {"bytes": (temporary / name).stat().st_size, "sha256": value} for name, value in hashes.items()}
    whole = replace(manifest, files=files)
    write_json(temporary / MANIFEST_FILE, whole.to_json())
    digest = hashlib.sha256((temporary / MANIFEST_FILE).read_bytes()).hexdigest()
    final = path_of(folder, manifest.step)
    for mark in final.glob(KEEP_MARKS):  # the step is reached once more: it stays what it was marked as
        (temporary / mark.name).touch()
    remove(final)
    publish_folder(temporary, final)
    return final, whole, digest


def remove(path: Path) -> None:
    """Takes a checkpoint away: it is no longer offered at once, whatever happens to its files."""
    if path.exists():
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def is_kept(path: Path) -> bool:
    """Whether somebody has marked the checkpoint as one that stays."""
    return any(path.glob(KEEP_MARKS))


def release(path: Path) -> bool:
    """Takes a checkpoint away as `remove` does, unless it is kept, or was marked so at this moment; says whether."""
    if is_kept(path) or not path.exists():
        return False
    gone = path.with_name(f".{path.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    if is_kept(gone):
        gone.rename(path)
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def clear_leftovers(folder: Path) -> None:
    """Removes what an attempt that was killed has left half-written or half-removed; puts back what was marked."""
    for marked in [path for path in folder.glob(".step-*.gone") if is_kept(path)]:
        with contextlib.suppress(OSError):  # another has been written in its place
            marked.rename(marked.with_name(marked.name.removeprefix(".").removesuffix(".gone")))
    for leftover in [*folder.glob(".step-*.part"), *folder.glob(".step-*.gone")]:
        shutil.rmtree(leftover, ignore_errors=True)


def surplus(
    scores: dict[int, float | None], *, limit: int, keep_best: int, protected: Sequence[int] = (),
    for_good: Collection[int] = (),
) -> list[int]:  # fmt: skip
    """The steps of which the checkpoint may go, oldest first, so that at most `limit` are left (0: all stay).

    `scores` maps the step of each checkpoint to its figure (lower is better, None: not known). The last one, the
    `keep_best` best ones and `protected` never go, so more than `limit` may stay. Those kept `for_good` stay beside
    them and are not counted.
    """
    counted = [step for step in sorted(scores) if step not in for_good]
    if not limit or len(counted) <= limit:
        return []
    known = sorted((score, step) for step, score in scores.items() if score is not None and not math.isnan(score))
    kept = {max(scores), *(step for _, step in known[:keep_best]), *protected}
    removable = [step for step in counted if step not in kept]
    return removable[: len(counted) - limit]


def is_disk_full(error: Exception, folder: Path) -> bool:
    """Whether a write failed for want of room; asked before what was half-written is removed."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    return folder.is_dir() and shutil.disk_usage(folder).free < SPARE_BYTES


def disk_full(folder: Path, error: BaseException, needed_bytes: int | None = None) -> JobFaultError:
    """The fault of a disk that had no room for what was being written, though there was enough when it was begun.

    With `needed_bytes` the run goes on by itself once so much is free. Where so much is free already, something else
    is full (another disk, a quota, the files that a disk can number), and a person has to look.
    """
    free_bytes = shutil.disk_usage(folder).free
    free = free_bytes / 1e9
    if needed_bytes is not None and (free_bytes >= needed_bytes or getattr(error, "errno", None) == errno.EDQUOT):
        needed_bytes = None
    needs = "" if needed_bytes is None else f" The run needs {needed_bytes / 1e9:.2f} GB; its checkpoints are whole."
    return JobFaultError(
        "disk_full",
        f"There is no room for what the run wants to write in {folder} ({free:.2f} GB free): {error}.{needs}",
        "Free some space or lower output.save_total_limit, then resume the run.",
        needed_bytes=needed_bytes,
    )


def no_room(folder: Path, needed_bytes: int) -> JobFaultError:
    """The fault of a run that ends before the disk is full: so much must be free for it to go on."""
    free_bytes = shutil.disk_usage(folder).free
    return JobFaultError(
        "disk_full",
        f"The disk of {folder} has {free_bytes / 1e9:.2f} GB left; the run needs {needed_bytes / 1e9:.2f} GB for what "
        "it writes next and what must stay free (output.min_free_gib). Its checkpoints are whole.",
        f"Free {(needed_bytes - free_bytes) / 1e9:.2f} GB more (Settings, Storage): it goes on by itself then.",
        needed_bytes=needed_bytes,
    )
