"""Logs that were compressed, unpacked for whoever looks through them. Runs in the agent; standard library only.

The last one is kept for a while, so that not each page of it is unpacked anew. It has no name on the disk: with the
agent, it is gone.
"""

import gzip
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO

from monitoring.wire import AgentFaultError

BLOCK_BYTES = 1 << 20
MOST_BYTES = 512 << 20
"""A larger one is for downloading only."""

FREE_BYTES = 1 << 30
"""So much of the disk is left to those who train."""

KEPT_SECONDS = 300.0
NO_ROOM = frozenset({28, 122})
"""ENOSPC, EDQUOT."""

_Identity = tuple[Path, int, int]


class UnpackedLogs:
    """Keeps the last log that was unpacked, until nobody has looked at it for `kept_seconds`."""

    def __init__(self, kept_seconds: float = KEPT_SECONDS) -> None:
        self._kept_seconds = kept_seconds
        self._lock = threading.Lock()
        self._whole: IO[bytes] | None = None
        self._of: _Identity | None = None
        self._timer: threading.Timer | None = None

    @property
    def holds_one(self) -> bool:
        """Whether one is kept."""
        return self._whole is not None

    def open(self, packed: Path) -> IO[bytes]:
        """What a gzip file holds, with a position of its own. Raises AgentFaultError (`log_too_large`, `disk_full`)."""
        with self._lock:
            found = packed.stat()
            identity = (packed, found.st_mtime_ns, found.st_size)
            if self._whole is None or identity != self._of:
                self._drop()
                self._whole, self._of = _unpacked(packed), identity
            self._drop_later()
            return Path(f"/proc/self/fd/{self._whole.fileno()}").open("rb")

    def _drop_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self._kept_seconds, self._forget, (self._of,))
        self._timer.daemon = True
        self._timer.start()

    def _forget(self, identity: _Identity) -> None:
        with self._lock:
            if identity == self._of:
                self._drop()

    def _drop(self) -> None:
        if self._whole is not None:
            self._whole.close()
        self._whole = self._of = None


def _unpacked(packed: Path) -> IO[bytes]:
    """A file without a name, on the same disk."""
    if (told := _told_bytes(packed)) > MOST_BYTES:
        raise _too_large()
    if shutil.disk_usage(packed.parent).free < FREE_BYTES + told:
        raise _no_room()
    whole = tempfile.TemporaryFile(dir=packed.parent)  # noqa: SIM115 - it is kept
    try:
        with gzip.open(packed, "rb") as source:
            while block := source.read(BLOCK_BYTES):
                if whole.tell() + len(block) > MOST_BYTES:
                    raise _too_large()
                whole.write(block)
        whole.flush()
    except OSError as error:
        whole.close()
        if error.errno in NO_ROOM:
            raise _no_room() from error
        raise
    except BaseException:
        whole.close()
        raise
    return whole


def _told_bytes(packed: Path) -> int:
    """How much a gzip file holds, as its end tells it: less by a multiple of 4 GiB where that is more."""
    with packed.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - 4))
        return int.from_bytes(stream.read(4), "little")


def _too_large() -> AgentFaultError:
    return AgentFaultError(
        "log_too_large",
        f"This log was compressed, and unpacked it has more than {MOST_BYTES >> 20} MiB: too much for looking through.",
        "Download it and unpack it there.",
    )


def _no_room() -> AgentFaultError:
    return AgentFaultError(
        "disk_full",
        "This log was compressed, and there is no room on its host's disk for unpacking it.",
        "Download it, or make room on that disk.",
    )
