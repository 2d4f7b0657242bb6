"""The files of one home as another sees them: listed with hashes, read and written in blocks, published when whole.

Runs in the agent and, for the library's own home, in the web process; standard library only; thread-safe. What comes in
lies under `tmp/incoming/` until every file has the hash that was told; nobody finds half of an item in its place. It
remembers nothing that isn't on disk: after a restart it goes on with the blocks that are there.
"""

import base64
import binascii
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from monitoring.attempt import NO_ROOM
from monitoring.file_hashes import FileHashes, Hashing
from monitoring.file_items import MOST_FILES, Item
from monitoring.files import sync_folder, write_json
from monitoring.folder_swap import settle, swap_in
from monitoring.wire import AgentFaultError, FileBlock, FileEntry, FileListing, Incoming

BLOCK_BYTES = 4 << 20
"""What travels in one call; what is held of a file after a break is a whole number of them."""

MIN_FREE_BYTES = 256 << 20
INCOMING = Path("tmp") / "incoming"
MANIFEST = "manifest.json"
FILES = "files"
LOCK = ".lock"
MAX_WAIT_SECONDS = 20.0
IncomingState = Literal["hashing", "present", "receiving", "damaged", "published"]


class FileStore:
    """One home's files. `in_use` says why an item may not be taken away now, or nothing."""

    def __init__(
        self,
        home: Path,
        *,
        in_use: Callable[[Item], str] = lambda item: "",
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self.home = home
        self._in_use = in_use
        self._min_free_bytes = min_free_bytes
        self._hashes = FileHashes(home)
        self._lock = threading.RLock()
        self._settle()

    # --- Giving -------------------------------------------------------------------------------------------------------

    def list_files(self, item: Mapping[str, str], wait_seconds: float = 0.0) -> FileListing:
        """What an item consists of. `hashing`: ask again, the hashes aren't known yet."""
        return _listing(self._hashing(_item(item), wait_seconds))

    def read_block(self, item: Mapping[str, str], name: str, offset: int) -> FileBlock:
        """A block of a file. Refusal: `gone`."""
        wanted = _item(item)
        path = wanted.folder(self.home) / wanted.check_name(name)
        try:
            with path.open("rb") as stream:
                stream.seek(_whole(offset))
                data = stream.read(BLOCK_BYTES)
                size = os.fstat(stream.fileno()).st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise AgentFaultError("gone", f"{name} of {wanted.kind} {wanted.id} isn't there any more.") from error
        return FileBlock(data=base64.b64encode(data).decode(), sha256=hashlib.sha256(data).hexdigest(), size=size)

    # --- Taking -------------------------------------------------------------------------------------------------------

    def begin_files(
        self, item: Mapping[str, str], files: Sequence[Mapping[str, Any]], wait_seconds: float = 0.0
    ) -> Incoming:
        """Makes ready for an item, or goes on where a transfer of the same files broke off.

        `present`: it is there already, hash by hash. `hashing`: what is there is compared; ask again. Refusals:
        `bad_call`, `disk_full`.
        """
        wanted, entries = _item(item), _checked(_item(item), files)
        there = self._hashing(wanted, wait_seconds)
        if there.entries is None and there.failure is None:
            return _state("hashing", hashing=there)
        if entries and _covers(wanted, there.entries or [], entries):
            self._drop_incoming(wanted)
            return _state("present", held=[entry["bytes"] for entry in entries])
        with self._lock:
            staging = self._staging(wanted)
            try:
                if _manifest(staging) != entries:
                    shutil.rmtree(staging, ignore_errors=True)
                    write_json(staging / MANIFEST, {"item": {"kind": wanted.kind, "id": wanted.id}, "files": entries})
                held = [_held(staging / FILES / entry["name"], entry["bytes"]) for entry in entries]
            except OSError as error:
                raise self._refusal(wanted, error) from error
            self._check_room(wanted, sum(entry["bytes"] for entry in entries) - sum(held))
        return _state("receiving", held=held)

    def write_block(self, item: Mapping[str, str], number: int, offset: int, data: str, sha256: str) -> int:
        """Appends a block to the file of that number in the manifest; returns how much of it is held now.

        A block that is held already changes nothing. Refusals: `not_begun`, `damaged_block` (send it again),
        `wrong_offset`, `disk_full`.
        """
        wanted = _item(item)
        block = _decoded(data, sha256)
        with self._lock:
            staging = self._staging(wanted)
            entries = _manifest(staging)
            if entries is None or not 0 <= number < len(entries):
                raise AgentFaultError("not_begun", f"No file {number} of {wanted.kind} {wanted.id} is expected here.")
            path, whole = staging / FILES / entries[number]["name"], entries[number]["bytes"]
            try:
                return _append(path, _whole(offset), block, whole)
            except OSError as error:
                raise self._refusal(wanted, error) from error

    def publish_files(self, item: Mapping[str, str], wait_seconds: float = 0.0) -> Incoming:
        """Puts an item into its place once every file has its hash.

        `hashing`: ask again. `receiving`: something is missing. `damaged`: files whose hash was wrong have been thrown
        away, `held` says what is left. Refusals: `not_begun`, `in_use`, `disk_full`.
        """
        wanted = _item(item)
        with self._lock:
            staging = self._staging(wanted)
            entries = _manifest(staging)
            if entries is None:
                raise AgentFaultError("not_begun", f"Nothing of {wanted.kind} {wanted.id} is expected here.")
            paths = [staging / FILES / entry["name"] for entry in entries]
            held = [_held(path, entry["bytes"]) for path, entry in zip(paths, entries, strict=True)]
        if any(size < entry["bytes"] for size, entry in zip(held, entries, strict=True)):
            return _state("receiving", held=held)
        named = [(entry["name"], path) for entry, path in zip(entries, paths, strict=True)]
        hashing = self._hashes.ask(f"incoming-{wanted.key}", named, _wait(wait_seconds), note=False)
        if hashing.entries is None:
            return _state("hashing", held=held, hashing=hashing)
        wrong = [n for n, found in enumerate(hashing.entries) if found["sha256"] != entries[n]["sha256"]]
        for number in wrong:
            paths[number].unlink(missing_ok=True)
            held[number] = 0
        if wrong:
            return _state("damaged", held=held)
        with self._lock, self._alone():
            if _manifest(staging) != entries:
                raise AgentFaultError("not_begun", f"{wanted.kind} {wanted.id} has been begun anew.", "Begin again.")
            if not wanted.is_in_place:
                self._refuse_in_use(wanted)
            try:
                self._publish(wanted, staging, entries)
            except OSError as error:
                raise self._refusal(wanted, error) from error
        return _state("published", held=held)

    def remove_files(self, item: Mapping[str, str], incoming_only: bool = False) -> int:
        """Takes an item away, or only what has come of it so far; returns the bytes. Refusal: `in_use`."""
        wanted = _item(item)
        removed = self._drop_incoming(wanted)
        if incoming_only:
            return removed
        self._refuse_in_use(wanted)
        with self._lock:
            self._hashes.forget(wanted.key)
            if wanted.folder(self.home).is_symlink():  # what it leads to is somebody else's
                wanted.folder(self.home).unlink()
                return removed
            files = list(wanted.files(self.home))
            removed += sum(path.stat().st_size for _, path in files)
            for _, path in files:
                path.unlink(missing_ok=True)
            _remove_empty(self.home, wanted.folder(self.home))
        return removed

    # --- Inside -------------------------------------------------------------------------------------------------------

    def _hashing(self, item: Item, wait_seconds: float) -> Hashing:
        return self._hashes.ask(item.key, list(item.files(self.home)), _wait(wait_seconds))

    def _staging(self, item: Item) -> Path:
        return self.home / INCOMING / item.key

    def _drop_incoming(self, item: Item) -> int:
        with self._lock:
            staging = self._staging(item)
            size = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
            shutil.rmtree(staging, ignore_errors=True)
        return size

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Among the processes that write into this home: the agent's, and in the library's own the web process."""
        folder = self.home / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # let go of when it is closed, however this ends
            yield

    def _settle(self) -> None:
        """Ends the swaps in which a process before was killed."""
        begun = sorted((self.home / INCOMING).glob(f"*/{MANIFEST}"))
        with self._alone() if begun else nullcontext():
            for manifest in begun:
                with suppress(OSError, ValueError, KeyError, TypeError, AgentFaultError):  # an older one's
                    item = _item(json.loads(manifest.read_bytes())["item"])
                    settle(item.folder(self.home), item.stays)

    def _refuse_in_use(self, item: Item) -> None:
        if reason := self._in_use(item):
            raise AgentFaultError("in_use", f"{item.kind} {item.id} stays: {reason}.", "Wait until that has ended.")

    def _check_room(self, item: Item, needed_bytes: int) -> None:
        free = shutil.disk_usage(self.home).free
        if needed_bytes and free < needed_bytes + self._min_free_bytes:
            raise AgentFaultError(
                "disk_full",
                f"The {item.kind} needs {needed_bytes / 1e9:.2f} GB more under {self.home}: {free / 1e9:.2f} GB are "
                f"free there, and {self._min_free_bytes / 1e9:.2f} GB must stay free.",
                "Make room on that disk.",
            )

    def _refusal(self, item: Item, error: OSError) -> AgentFaultError:
        code = "disk_full" if error.errno in NO_ROOM else "files_failed"
        message = f"The {item.kind} can't be written under {self.home}: {error.strerror}."
        return AgentFaultError(code, message, "Make room on that disk." if code == "disk_full" else "See its log.")

    def _publish(self, item: Item, staging: Path, entries: list[FileEntry]) -> None:
        final, files = item.folder(self.home), staging / FILES
        files.mkdir(exist_ok=True)
        if item.is_in_place:
            _move_into(files, final, [entry["name"] for entry in entries])
        else:
            swap_in(files, final, item.stays)
        shutil.rmtree(staging, ignore_errors=True)


def _item(value: Mapping[str, str]) -> Item:
    return Item(value["kind"], value["id"])


def _wait(seconds: float) -> float:
    return min(max(float(seconds), 0.0), MAX_WAIT_SECONDS)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise AgentFaultError("bad_call", f"An offset is a whole number from 0 on, not {value!r}.")
    return value


def _listing(hashing: Hashing) -> FileListing:
    entries = hashing.entries
    is_over = entries is not None or hashing.failure is not None
    state: Literal["absent", "hashing", "ready"] = "ready" if entries else "absent" if is_over else "hashing"
    return FileListing(
        state=state, files=entries or [], hashed_bytes=hashing.hashed_bytes, total_bytes=hashing.total_bytes
    )


def _state(state: IncomingState, *, held: list[int] | None = None, hashing: Hashing | None = None) -> Incoming:
    done, total = (hashing.hashed_bytes, hashing.total_bytes) if hashing else (0, 0)
    return Incoming(state=state, held=held or [], hashed_bytes=done, total_bytes=total)


def _checked(item: Item, files: Sequence[Mapping[str, Any]]) -> list[FileEntry]:
    if len(files) > MOST_FILES:
        raise AgentFaultError("bad_call", f"An item has at most {MOST_FILES} files.")
    entries = []
    for value in files:
        name, size, sha256 = item.check_name(value["name"]), _whole(value["bytes"]), str(value["sha256"])
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise AgentFaultError("bad_call", f"{name} comes without a SHA-256.")
        entries.append(FileEntry(name=name, bytes=size, sha256=sha256))
    if len({entry["name"] for entry in entries}) != len(entries):
        raise AgentFaultError("bad_call", "A file is named twice.")
    return entries


def _covers(item: Item, there: list[FileEntry], wanted: list[FileEntry]) -> bool:
    """Whether all that is wanted is there; of an item with a folder of its own nothing else may be there."""
    by_name = {entry["name"]: entry for entry in there}
    return all(by_name.get(entry["name"]) == entry for entry in wanted) and (
        item.is_in_place or len(there) == len(wanted)
    )


def _manifest(staging: Path) -> list[FileEntry] | None:
    try:
        files: list[FileEntry] = json.loads((staging / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files


def _held(path: Path, whole: int) -> int:
    """How much of a file is there in whole blocks; what is torn behind them is cut off."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        if whole == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return 0
    held = size if size == whole else min(size, whole) // BLOCK_BYTES * BLOCK_BYTES
    if held != size:
        os.truncate(path, held)
    return held


def _decoded(data: str, sha256: str) -> bytes:
    try:
        block = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError, TypeError):
        block = b""
    if not block or len(block) > BLOCK_BYTES or hashlib.sha256(block).hexdigest() != sha256:
        raise AgentFaultError("damaged_block", "A block has arrived damaged.", "Send it again.")
    return block


def _append(path: Path, offset: int, block: bytes, whole: int) -> int:
    """Writes a block behind what is held. On a failure the file is as long as before."""
    held = _held(path, whole)
    end = offset + len(block)
    if end <= held:
        return held
    if offset != held or end > whole or (len(block) != BLOCK_BYTES and end != whole):
        raise AgentFaultError("wrong_offset", f"The next block begins at byte {held}, not {offset}.", "Begin again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab") as stream:
            stream.write(block)
    except OSError:
        if path.exists():
            os.truncate(path, held)
        raise
    return end


def _move_into(files: Path, final: Path, names: list[str]) -> None:
    for name in names:
        target = final / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (files / name).open("rb") as stream:
            os.fsync(stream.fileno())
        (files / name).replace(target)
        sync_folder(target.parent)


def _remove_empty(home: Path, folder: Path) -> None:
    """Removes the folders below this one that hold nothing, and those above it up to the kind's own."""
    below = sorted((entry for entry in folder.rglob("*") if entry.is_dir()), reverse=True) if folder.is_dir() else []
    above = [entry for entry in folder.parents if home in entry.parents and entry.parent != home]
    for entry in [*below, folder, *above]:
        try:
            entry.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.ENOTDIR):
                raise
