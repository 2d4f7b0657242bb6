"""The files of a home, a host's or the library's own: the same six calls, whichever way they travel.

Runs in the web process, in any thread. An item is {"kind", "id"} as `monitoring.file_items` knows it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from controlplane.fleet.protocol import AgentRefusedError, FileBlock, FileEntry, FileListing, Incoming, Item
from monitoring.file_items import item_at
from monitoring.file_store import BLOCK_BYTES, FileStore
from monitoring.home_id import home_id
from monitoring.wire import AgentFaultError

__all__ = ["BLOCK_BYTES", "HostFiles", "home_id", "item_at", "library"]

WAIT_SECONDS = 2.0
"""How long a question about hashes waits for them; whoever hears `hashing` asks again."""

FILE_TIMEOUT_SECONDS = 60.0
PUBLISH_TIMEOUT_SECONDS = 600.0
"""Publishing syncs what was written, which a slow disk takes minutes for."""


class HomeFiles(ABC):
    """Implements `FileCalls` but for how a call travels.

    Every call raises AgentRefusedError and, where a host is asked, HostUnreachableError.
    """

    @abstractmethod
    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = FILE_TIMEOUT_SECONDS) -> Any:
        """The answer."""

    def list_files(self, item: Item) -> FileListing:
        """What an item consists of; `absent` where it isn't there."""
        return cast(FileListing, self._ask("list_files", {"item": _named(item), "wait_seconds": WAIT_SECONDS}))

    def read_block(self, item: Item, name: str, offset: int) -> FileBlock:
        """At most BLOCK_BYTES of a file. Refusal: `gone`."""
        return cast(FileBlock, self._ask("read_block", {"item": _named(item), "name": name, "offset": offset}))

    def begin_files(self, item: Item, files: Sequence[FileEntry]) -> Incoming:
        """Makes ready for these files, or goes on where it broke off. Refusal: `disk_full`."""
        args = {"item": _named(item), "files": list(files), "wait_seconds": WAIT_SECONDS}
        return cast(Incoming, self._ask("begin_files", args))

    def write_block(self, item: Item, number: int, offset: int, block: FileBlock) -> int:
        """Appends a block; returns how much is held. Refusals: `damaged_block`, `wrong_offset`, `disk_full`."""
        args = {"item": _named(item), "number": number, "offset": offset}
        return int(self._ask("write_block", {**args, "data": block["data"], "sha256": block["sha256"]}))

    def publish_files(self, item: Item) -> Incoming:
        """Puts an item into its place once every file has its hash."""
        args = {"item": _named(item), "wait_seconds": WAIT_SECONDS}
        return cast(Incoming, self._ask("publish_files", args, PUBLISH_TIMEOUT_SECONDS))

    def remove_files(self, item: Item, *, incoming_only: bool = False) -> int:
        """Takes an item away, or only what has come of it. Refusal: `in_use`."""
        return int(self._ask("remove_files", {"item": _named(item), "incoming_only": incoming_only}))


class HostFiles(HomeFiles):
    """The files of a host, asked through its carrier's `ask`."""

    def __init__(self, ask: Callable[[str, dict[str, Any], float], Any]) -> None:
        self._through = ask

    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = FILE_TIMEOUT_SECONDS) -> Any:
        return self._through(call, args, timeout_seconds)


class Library(HomeFiles):
    """The files of the control plane's own home."""

    def __init__(self, home: Path) -> None:
        store = FileStore(home)
        self.home = home
        self._calls: dict[str, Callable[..., Any]] = {
            call.__name__: call
            for call in (
                store.list_files, store.read_block, store.begin_files, store.write_block, store.publish_files,
                store.remove_files,
            )
        }  # fmt: skip

    def _ask(self, call: str, args: dict[str, Any], timeout_seconds: float = FILE_TIMEOUT_SECONDS) -> Any:
        try:
            return self._calls[call](**args)
        except AgentFaultError as error:
            raise AgentRefusedError(**error.fault) from error


@cache
def library(home: Path) -> Library:
    """The library in a home; one each, kept."""
    return Library(home)


def _named(item: Item) -> Mapping[str, str]:
    return {"kind": item.kind, "id": item.id}
