"""What the calls about files between hosts take and answer."""

from datetime import datetime
from typing import Literal

from ninja import Schema


class TransferFacts(Schema):
    """An item on its way between the library and a host. `sentence`: what goes on, in words.

    `damaged_blocks`: how many had to be asked for again. `fault`: why it failed, or what it waits for.
    """

    id: int
    kind: Literal["dataset", "model", "exports", "checkpoint", "results"]
    item: str
    title: str
    host: str
    direction: Literal["out", "home"]
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    bytes_done: int
    bytes_total: int | None
    bytes_per_second: float | None
    seconds_left: float | None
    sentence: str
    damaged_blocks: int
    fault: str
    fix: str
    created_at: str
    ended_at: str | None


class TransferList(Schema):
    """Transfers, those that are live first."""

    transfers: list[TransferFacts]


class Copy(Schema):
    """An item that a host holds. `in_use`: a job works with it, so it stays."""

    kind: str
    item: str
    title: str
    bytes: int
    used_at: datetime
    arrived_at: datetime
    in_use: bool


class SharedFiles(Schema):
    """What the control plane sees under `here`, the host sees under `there`. Both empty: nothing is shared."""

    here: str = ""
    there: str = ""


class HostFiles(Schema):
    """What a host holds of the library. `is_apart`: it has a home of its own, and files are copied.

    `limit_bytes`: how much it may hold, 0: as much as its disk has room for.
    """

    host: str
    is_apart: bool
    shared: SharedFiles | None
    limit_bytes: int
    held_bytes: int
    copies: list[Copy]
    transfers: list[TransferFacts]


class Cleared(Schema):
    """How much was freed."""

    freed_bytes: int
