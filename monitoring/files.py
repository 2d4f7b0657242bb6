"""Writing and hashing files so that nobody ever sees half of one.

Runs in every process; standard library only. A file that is not append-only is written beside its final place
(or under `tmp/`, where the caller has one on the same file system), synced and renamed.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

HASH_BLOCK_BYTES = 1 << 20

FACTS_FILE = "pilothouse.json"
"""What is known of a published model, in its folder."""

EXPORTS_FOLDER = "gguf"
"""What a model was exported to, in its folder: made of it, and no part of it."""


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Opens a temporary file that takes `path`'s place when the block ends well, and vanishes when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by `data` in one step."""
    with replacing(path, mode=mode) as stream:
        stream.write(data)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Replaces `path` by `value` as JSON (UTF-8, keys in the given order) in one step."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", mode=mode)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, final: Path) -> None:
    """Syncs every file of `temporary`, then renames it to `final`, which must not exist yet.

    Raises FileExistsError when it does: what is published is never overwritten.
    """
    if final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    for entry in temporary.rglob("*"):
        if entry.is_file():
            with entry.open("rb") as stream:
                os.fsync(stream.fileno())
    for entry in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
        sync_folder(entry)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(final)
    sync_folder(final.parent)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hashes_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`, by its path relative to it, sorted."""
    files = sorted(entry for entry in folder.rglob("*") if entry.is_file())
    return {str(entry.relative_to(folder)): sha256_of(entry) for entry in files}


def model_hashes(folder: Path) -> dict[str, str]:
    """The hashes of the files that a model consists of: what is known of it and its exports are left out."""
    beside = (FACTS_FILE, EXPORTS_FOLDER)
    entries = sorted(entry for entry in folder.iterdir() if entry.name not in beside)
    hashes: dict[str, str] = {}
    for entry in entries:
        if entry.is_dir():
            hashes |= {f"{entry.name}/{name}": value for name, value in hashes_of(entry).items()}
        else:
            hashes[entry.name] = sha256_of(entry)
    return hashes


def size_of(folder: Path) -> int:
    """The bytes of all files below `folder`."""
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
