"""The threads that carry files between the library and hosts, a few at a time. A duty of the dispatching process.

A thread keeps nothing: what the target holds is the state, so that a transfer goes on after either side has broken off.
"""

import logging
import threading
import time
from functools import partial

from django.utils import timezone

from controlplane import threads
from controlplane.fleet.files import BLOCK_BYTES, library
from controlplane.fleet.protocol import (
    AgentRefusedError,
    FileCalls,
    FileEntry,
    FileListing,
    HostUnreachableError,
    Incoming,
    Item,
)
from controlplane.fleet.registry import carrier
from controlplane.models import Transfer
from controlplane.models.transfers import Direction
from controlplane.services import copies, transfers
from controlplane.services.artefacts import home

log = logging.getLogger(__name__)
AT_ONCE = 4
AT_ONCE_A_HOST = 2
REPORT_SECONDS = 1.0
MOST_DAMAGED_IN_A_ROW = 5
MOST_TRIES = 3
AWAY_SECONDS = 2.0
FULL_SECONDS = 30.0

_carried: dict[int, int] = {}
"""The transfers that a thread of this process works on, and the host of each."""

_lock = threading.Lock()


def work() -> None:
    """Gives every transfer that is due a thread, as long as there is room."""
    now = timezone.now()
    for row in transfers.live():
        if row.direction == Direction.OUT and not transfers.waiting_for(row):
            transfers.drop(row, "no job needs it there any more")
            continue
        if row.not_before is not None and row.not_before > now:
            continue
        with _lock:
            busy = len(_carried) >= AT_ONCE or sum(one == row.host_id for one in _carried.values()) >= AT_ONCE_A_HOST
            if busy or row.pk in _carried:
                continue
            _carried[row.pk] = row.host_id
        threads.begin(f"files of {row.host.name}", partial(_run, row))


def _run(row: Transfer) -> None:
    try:
        if transfers.begin(row.pk):
            carry(row)
    except Exception as error:  # the transfer fails, and whoever waits for it hears why
        log.exception("transfer %s stumbled", row.pk)
        transfers.fail(row.pk, "internal", f"It can't be carried: {type(error).__name__}: {error}.")
    finally:
        with _lock:
            _carried.pop(row.pk, None)


def carry(row: Transfer) -> None:
    """Carries one transfer as far as it can be carried now, and says what came of it."""
    try:
        _Carry(row).run()
    except _CalledOffError:
        pass
    except HostUnreachableError:
        transfers.put_off(row.pk, f"{row.host.name} doesn't answer; it goes on when it does", AWAY_SECONDS)
    except AgentRefusedError as error:
        if error.code == "disk_full" and row.direction == Direction.HOME:
            transfers.put_off(row.pk, f"{error.message} {error.fix}", FULL_SECONDS)
        else:
            transfers.fail(row.pk, error.code, f"{row.title}: {error.message}", error.fix)


class _CalledOffError(Exception):
    """It was cancelled meanwhile."""


class _Carry:
    """One transfer, from its source to its target."""

    def __init__(self, row: Transfer) -> None:
        ours, theirs = library(home()), carrier(row.host).files
        self.row = row
        self.item = Item(row.item_kind, row.item_id)
        self.source: FileCalls = ours if row.direction == Direction.OUT else theirs
        self.target: FileCalls = theirs if row.direction == Direction.OUT else ours
        self.done_bytes = 0
        self.damaged = row.damaged_blocks
        self._reported_at = self._speed_at = time.monotonic()
        self._speed_bytes: int | None = None
        self._speed: float | None = row.bytes_per_second

    def run(self) -> None:
        """Raises AgentRefusedError, HostUnreachableError, _CalledOffError."""
        for _ in range(MOST_TRIES):
            listing = self._listing()
            total = sum(entry["bytes"] for entry in listing["files"])
            begun = self._begin(listing["files"], total)
            if begun["state"] == "receiving":
                self._send(listing["files"], begun["held"], total)
                begun = self._publish()
            if begun["state"] in ("present", "published"):
                transfers.finish(self.row.pk, total)
                return
        message = f"what arrives is not what was sent, {MOST_TRIES} times in a row"
        raise AgentRefusedError("damaged_files", message, "Check the disks and the memory of both machines.")

    def _listing(self) -> FileListing:
        while (listing := self.source.list_files(self.item))["state"] == "hashing":
            self._report(listing["hashed_bytes"], listing["total_bytes"], is_checking=True)
        if listing["state"] == "absent":
            raise AgentRefusedError("gone", "it isn't there any more", "It may have been deleted meanwhile.")
        return listing

    def _begin(self, files: list[FileEntry], total: int) -> Incoming:
        if self.row.direction == Direction.OUT:
            copies.make_room(self.row.host, total)
        made_room = False
        while True:
            try:
                begun = self.target.begin_files(self.item, files)
            except AgentRefusedError as error:
                is_cache = error.code == "disk_full" and self.row.direction == Direction.OUT
                if not is_cache or made_room or not copies.make_room(self.row.host, total, beyond_limit=True):
                    raise
                made_room = True
                continue
            if begun["state"] != "hashing":
                return begun
            self._report(begun["hashed_bytes"], begun["total_bytes"], is_checking=True)

    def _send(self, files: list[FileEntry], held: list[int], total: int) -> None:
        self.done_bytes = sum(held)
        self._report(self.done_bytes, total, now=True)
        for number, entry in enumerate(files):
            offset = held[number]
            while offset < entry["bytes"]:
                held_before, offset = offset, self._send_block(number, entry["name"], offset)
                self.done_bytes += offset - held_before
                self._report(self.done_bytes, total)
        self._report(self.done_bytes, total, now=True)

    def _send_block(self, number: int, name: str, offset: int) -> int:
        for left in reversed(range(MOST_DAMAGED_IN_A_ROW)):
            block = self.source.read_block(self.item, name, offset)
            try:
                return self.target.write_block(self.item, number, offset, block)
            except AgentRefusedError as error:
                if error.code != "damaged_block" or not left:
                    raise
                self.damaged += 1
                log.warning("transfer %s: block %d of %s was damaged", self.row.pk, offset // BLOCK_BYTES, name)
        raise AssertionError("unreachable")

    def _publish(self) -> Incoming:
        while (published := self.target.publish_files(self.item))["state"] == "hashing":
            self._report(published["hashed_bytes"], published["total_bytes"], is_checking=True)
        if published["state"] == "damaged":
            self.row.tries += 1
            log.warning("transfer %s: what arrived has another hash; it is sent again", self.row.pk)
        return published

    def _report(self, done: int, total: int, *, is_checking: bool = False, now: bool = False) -> None:
        """Tells how far it is, once a second. Raises _CalledOffError."""
        moment = time.monotonic()
        if moment - self._reported_at < REPORT_SECONDS and not now:
            return
        if is_checking or self._speed_bytes is None:
            self._speed_bytes = None if is_checking else done
        elif moment > self._speed_at:
            speed = (done - self._speed_bytes) / (moment - self._speed_at)
            self._speed = speed if self._speed is None else 0.7 * self._speed + 0.3 * speed
            self._speed_bytes = done
        self._reported_at = self._speed_at = moment
        if not transfers.report(
            self.row.pk, bytes_done=done, bytes_total=total, is_checking=is_checking, damaged_blocks=self.damaged,
            tries=self.row.tries, bytes_per_second=None if is_checking else self._speed,
        ):  # fmt: skip
            self.target.remove_files(self.item, incoming_only=True)
            raise _CalledOffError
