"""What lies at the snapshots' address: files by the hash of their content, and a manifest a snapshot. Web process.

    blobs/ab/abcdef…      a file, called by its SHA-256: the same content is there once, however many snapshots have it
    snapshots/NAME.json   what a snapshot consists of, with a hash over itself; written last

The one gate to fsspec: whatever its many carriers raise becomes a sentence here. Credentials are the environment's or
fsspec's configuration file's.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from controlplane.errors import ConflictError, NotFoundError, PilothouseError, UnavailableError
from controlplane.services.disk_room import require_room
from monitoring.files import HASH_BLOCK_BYTES

NAME = re.compile(r"\d{8}T\d{6}Z")
SHA256 = re.compile(r"[0-9a-f]{64}")
Told = Callable[[int], None]
"""Is told how many bytes more are done."""


class DamagedError(ConflictError):
    """What lies at the address is not what was put there."""


@dataclass(frozen=True)
class Snapshot:
    """A manifest. `items` are {"key", "kind", "title", "bytes", "facts", "files": {name: {"bytes", "sha256"}}}."""

    name: str
    created_at: str
    items: list[dict[str, Any]]

    @property
    def size_bytes(self) -> int:
        """The bytes of all its files, whether other snapshots have them too or not."""
        return sum(int(item["bytes"]) for item in self.items)


class SnapshotStore:
    """The folder or bucket at an address. Every call raises UnavailableError where it can't be reached."""

    def __init__(self, address: str) -> None:
        self.address = address
        with self._reaching():
            self._fs, root = url_to_fs(address)
            self._root = root.rstrip("/")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except PilothouseError:
            raise
        except Exception as error:  # a carrier's own kinds of errors, of which fsspec has dozens
            raise UnavailableError(
                f"The snapshots' address {self.address} can't be used: {type(error).__name__}: {str(error)[:300]}", 60
            ) from error

    def _blob(self, sha256: str) -> str:
        return f"{self._root}/blobs/{sha256[:2]}/{sha256}"

    def _manifest(self, name: str) -> str:
        return f"{self._root}/snapshots/{name}.json"

    # --- Files by their content ---

    def blobs(self) -> dict[str, int]:
        """The bytes of each file that is there, by its hash."""
        with self._reaching():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(f"{self._root}/blobs", detail=True)
            except FileNotFoundError:
                return {}
            names = {path.rpartition("/")[2]: int(facts["size"] or 0) for path, facts in found.items()}
            return {name: size for name, size in names.items() if SHA256.fullmatch(name)}

    def require_room(self, needed_bytes: int) -> None:
        """Raises UnavailableError where the address is a folder whose disk has no room."""
        if not isinstance(self._fs, LocalFileSystem):
            return
        with self._reaching():
            self._fs.makedirs(self._root, exist_ok=True)
            require_room(
                Path(self._root), needed_bytes, "this snapshot",
                "Free some, keep fewer (snapshots.keep), or leave datasets out (snapshots.datasets).",
            )  # fmt: skip

    def put(self, source: Path, sha256: str, told: Told) -> None:
        """Copies a file there, and reads it back. Raises DamagedError when either isn't what its hash says."""
        path = self._blob(sha256)
        digest = hashlib.sha256()
        with source.open("rb") as reader, self._reaching():
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._fs.open(path, "wb") as writer:
                while block := reader.read(HASH_BLOCK_BYTES):
                    digest.update(block)
                    writer.write(block)
                    told(len(block))
        if digest.hexdigest() != sha256:
            self._remove(path)
            raise DamagedError(f"{source} is not what was written there: it was not copied.")
        with self._reaching(), self._fs.open(path, "rb") as reader:
            if _hash(iter(lambda: reader.read(HASH_BLOCK_BYTES), b"")) != sha256:
                self._remove(path)
                raise DamagedError(f"{source.name} came out differently at {self.address}: the copy was removed.")

    def fetch(self, sha256: str, target: Path, told: Told) -> None:
        """Copies a file from there. Raises DamagedError when it is missing or not what its hash says."""
        digest = hashlib.sha256()
        with self._reaching():
            try:
                with self._fs.open(self._blob(sha256), "rb") as reader, target.open("wb") as writer:
                    while block := reader.read(HASH_BLOCK_BYTES):
                        digest.update(block)
                        writer.write(block)
                        told(len(block))
            except FileNotFoundError as error:
                raise DamagedError(
                    f"{target.name} is missing at {self.address}. Restore it from an earlier snapshot."
                ) from error
        if digest.hexdigest() != sha256:
            raise DamagedError(
                f"{target.name} at {self.address} is not what was copied there. Restore it from an earlier snapshot."
            )

    def remove_blob(self, sha256: str) -> None:
        """Takes a file away."""
        self._remove(self._blob(sha256))

    def _remove(self, path: str) -> None:
        with self._reaching():
            self._fs.rm_file(path)

    # --- Manifests ---

    def names(self) -> list[str]:
        """The snapshots that are there, the oldest first; none of them read."""
        with self._reaching():
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(f"{self._root}/snapshots", detail=False)
            except FileNotFoundError:
                return []
            found = (entry.rpartition("/")[2].removesuffix(".json") for entry in entries)
            return sorted(name for name in found if NAME.fullmatch(name))

    def write(self, snapshot: Snapshot) -> None:
        """Writes a manifest: from here on the snapshot is offered."""
        value = {
            "version": 1, "created_at": snapshot.created_at, "sha256": _items_sha256(snapshot.items),
            "items": snapshot.items,
        }  # fmt: skip
        with self._reaching():
            self._fs.makedirs(f"{self._root}/snapshots", exist_ok=True)
            with self._fs.open(self._manifest(snapshot.name), "wb") as writer:
                writer.write(json.dumps(value, ensure_ascii=False).encode())

    def read(self, name: str) -> Snapshot:
        """A snapshot. Raises NotFoundError, DamagedError."""
        if not NAME.fullmatch(name):
            raise NotFoundError(f"There is no snapshot {name!r}.")
        with self._reaching():
            try:
                with self._fs.open(self._manifest(name), "rb") as reader:
                    text = reader.read()
            except FileNotFoundError as error:
                raise NotFoundError(f"There is no snapshot {name!r}.") from error
        try:
            value = json.loads(text)
            snapshot = Snapshot(name, value["created_at"], value["items"])
            whole = value["sha256"] == _items_sha256(snapshot.items)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise DamagedError(f"The list of snapshot {name} is torn. Restore from another one.")
        return snapshot

    def forget(self, name: str) -> None:
        """Takes a manifest away; its files go when no other snapshot has them."""
        self._remove(self._manifest(name))


def _hash(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _items_sha256(items: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()
