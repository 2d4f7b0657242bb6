"""The hashes of an item's files: computed once in a thread, noted in the home, and asked for again cheaply.

Runs in the agent and, for the library's own home, in the web process; standard library only.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from monitoring.files import HASH_BLOCK_BYTES, write_json
from monitoring.wire import FileEntry

FOLDER = Path("tmp") / "file-hashes"
Named = list[tuple[str, Path]]
_Stamp = tuple[int, int, int]


class Hashing:
    """The hashing of some files, in a thread of its own. `entries` is None until it is over."""

    def __init__(self, files: Named, known: dict[str, tuple[_Stamp, str]], done: Callable[["Hashing"], None]) -> None:
        self.files = files
        self.known = known
        self.entries: list[FileEntry] | None = None
        self.stamps: dict[str, _Stamp] = {}
        self.failure: OSError | None = None
        self.hashed_bytes = 0
        self.total_bytes = 0
        self._done = done
        self._over = threading.Event()

    def start(self) -> None:
        """Begins."""
        self.total_bytes = sum(_size(path) for _, path in self.files)
        threading.Thread(target=self._run, name="file hashes", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether it is over, after waiting so long at most."""
        return self._over.wait(max(0.0, seconds))

    def _run(self) -> None:
        try:
            self.entries = [self._entry(name, path) for name, path in self.files]
        except OSError as error:  # a file has gone meanwhile: whoever asks again sees what is there then
            self.failure = error
        finally:
            self._done(self)
            self._over.set()

    def _entry(self, name: str, path: Path) -> FileEntry:
        stamp = stamp_of(path)
        self.stamps[name] = stamp
        stamped, value = self.known.get(name, ((0, 0, 0), ""))
        if stamped == stamp:
            self.hashed_bytes += stamp[0]
            return FileEntry(name=name, bytes=stamp[0], sha256=value)
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(HASH_BLOCK_BYTES):
                digest.update(block)
                self.hashed_bytes += len(block)
        return FileEntry(name=name, bytes=stamp[0], sha256=digest.hexdigest())


class FileHashes:
    """Those of one home. A file that has the size, the time and the inode that it had keeps its hash."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._running: dict[str, Hashing] = {}
        self._lock = threading.Lock()

    def ask(self, key: str, files: Named, wait_seconds: float, *, note: bool = True) -> Hashing:
        """The hashing of these files, which may be over. `note`: what is found is kept for the next time."""
        with self._lock:
            running = self._running.get(key)
            if running is None:
                running = Hashing(files, self._noted(key) if note else {}, lambda one: self._end(key, one, note))
                self._running[key] = running
                running.start()
        deadline = time.monotonic() + wait_seconds
        running.wait(deadline - time.monotonic())
        return running

    def forget(self, key: str) -> None:
        """Drops what is noted of files that have gone."""
        (self._folder / f"{key}.json").unlink(missing_ok=True)

    def _end(self, key: str, hashing: Hashing, note: bool) -> None:
        with self._lock:
            self._running.pop(key, None)
        if note and hashing.entries is not None:
            values = {entry["name"]: [*hashing.stamps[entry["name"]], entry["sha256"]] for entry in hashing.entries}
            with contextlib.suppress(OSError):  # a full disk: they are computed again
                write_json(self._folder / f"{key}.json", values)

    def _noted(self, key: str) -> dict[str, tuple[_Stamp, str]]:
        try:
            values = json.loads((self._folder / f"{key}.json").read_bytes())
            return {name: ((size, time_ns, inode), value) for name, (size, time_ns, inode, value) in values.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}


def stamp_of(path: Path) -> _Stamp:
    """What tells that a file is still the same: size, time of its last change, inode."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
