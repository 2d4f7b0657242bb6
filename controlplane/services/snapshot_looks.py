"""Looking at the snapshots' address in a request: within a deadline, and one look at a time. Runs in the web process.

A thread that hangs in a dead share can't be ended from outside. So each address has one at most: while that hangs, who
asks is told so at once.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from controlplane.errors import UnavailableError
from controlplane.services.snapshot_store import SnapshotStore

Found = TypeVar("Found")
LOOK_SECONDS = 15.0


class _Looker:
    """Who looks at one address."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._turn = threading.Lock()
        self._began = 0.0

    def look(self, work: Callable[[SnapshotStore], Found]) -> Found:
        """What `work` finds at the address. Raises UnavailableError, and what it raises."""
        until = time.monotonic() + LOOK_SECONDS
        # Whoever comes while another looks waits for its turn, though no longer than that look may take.
        if not self._turn.acquire(timeout=max(0.0, min(until, self._began + LOOK_SECONDS) - time.monotonic())):
            raise UnavailableError(
                f"The snapshots' address hangs: it was asked {time.monotonic() - self._began:.0f} s ago and has not "
                "answered yet. Look at its mount or network; it is asked again when it has answered.", 60
            )  # fmt: skip
        self._began = time.monotonic()
        found: Future[Found] = Future()
        # A daemon, so that a share that never answers doesn't keep the server from ending.
        threading.Thread(target=self._work, args=(work, found), name="look at snapshots", daemon=True).start()
        try:
            return found.result(until - time.monotonic())
        except TimeoutError as error:
            raise UnavailableError(
                f"The snapshots' address has not answered within {LOOK_SECONDS:.0f} s.", 60
            ) from error

    def _work(self, work: Callable[[SnapshotStore], Found], found: "Future[Found]") -> None:
        try:
            found.set_result(work(SnapshotStore(self._address)))
        except BaseException as error:  # it is raised where it was asked for
            found.set_exception(error)
        finally:
            self._turn.release()


_lookers: dict[str, _Looker] = {}
_guard = threading.Lock()


def within_deadline(address: str, work: Callable[[SnapshotStore], Found]) -> Found:
    """What `work` finds at an address, within LOOK_SECONDS. Raises UnavailableError, and what `work` raises."""
    with _guard:
        looker = _lookers.setdefault(address, _Looker(address))
    return looker.look(work)
