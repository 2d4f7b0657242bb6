"""What the calls under /api/storage take and answer."""

from typing import Any

from ninja import Schema


class KindOfThing(Schema):
    """What all things of a kind take."""

    kind: str
    title: str
    bytes: int
    files: int
    things: int


class Thing(Schema):
    """One of the largest. `ref`: a model's name, or the number of a dataset, run or job; None where nobody owns it."""

    kind: str
    title: str
    ref: str | int | None
    path: str
    bytes: int
    files: int
    is_orphan: bool


class Storage(Schema):
    """The home's disk. `measured_at` (Unix seconds) is None while it is measured for the first time: ask again."""

    home: str
    disk_bytes: int
    free_bytes: int
    used_bytes: int
    measured_at: float | None
    seconds: float | None
    bytes: int | None
    kinds: list[KindOfThing]
    largest: list[Thing]


class Clean(Schema):
    """`dry_run`: only look what would go; GET /api/storage/leftovers says it then."""

    dry_run: bool = False


class Leftover(Schema):
    """Something of no use to anybody."""

    kind: str
    path: str
    bytes: int
    why: str


class Leftovers(Schema):
    """What cleaning would take away: `things` in all, of which `items` are the 50 largest.

    `looked_at` is null where nobody has looked, or something was cleaned since; `job_id` is the look that is under way.
    """

    looked_at: str | None
    things: int | None
    bytes: int | None
    items: list[Leftover]
    job_id: int | None


class Snapshot(Schema):
    """A snapshot at the address; `fault` where its list is torn."""

    name: str
    created_at: str | None
    items: int | None
    bytes: int | None
    fault: str


class SnapshotItem(Schema):
    """What can be restored: `key` names it."""

    key: str
    kind: str
    title: str
    bytes: int


class WholeSnapshot(Schema):
    """A snapshot with its items."""

    name: str
    created_at: str
    bytes: int
    items: list[SnapshotItem]


class Restore(Schema):
    """The key of the item."""

    item: str


class InnerJob(Schema):
    """The job that does it: GET /api/jobs/ID tells how far it is."""

    job_id: int
    status: str
    config: dict[str, Any]
