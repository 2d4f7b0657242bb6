"""What the calls about hosts, their history and the processes on their GPUs take and answer."""

from datetime import datetime
from typing import Any

from ninja import Field, Schema


class GpuUpkeep(Schema):
    """Whether a GPU takes work: open, draining or maintenance, and who changed that, when and why."""

    index: int
    uuid: str
    state: str
    note: dict[str, Any] | None


class Host(Schema):
    """A host: what its agent reported last, what doesn't change, and why it can't be reached (`fault`).

    `clock_skew_seconds`: how far its clock is ahead of the web server's. `role`: both, train or serve. `state`: open,
    draining or maintenance; `note` says who changed that, when and why. `address`: where other hosts reach it, if not
    under its name. `on_loss`: what becomes of its jobs when it is lost (wait, resume, empty: as the setting says);
    `lost_at`: since when it is.
    """

    name: str
    carrier: str
    online: bool
    last_seen_at: datetime | None
    fault: str
    clock_skew_seconds: float | None
    role: str
    labels: list[str]
    group: str
    address: str
    on_loss: str
    lost_at: datetime | None
    state: str
    note: dict[str, Any] | None
    gpus: list[GpuUpkeep]
    facts: dict[str, Any]
    reading: dict[str, Any]


class HostEdit(Schema):
    """What is to be changed; what is left out stays."""

    role: str | None = None
    labels: list[str] | None = None
    group: str | None = None
    address: str | None = None
    on_loss: str | None = None


class UpkeepChange(Schema):
    """open, draining or maintenance, and why."""

    state: str
    reason: str = ""


class HostList(Schema):
    """All hosts by name."""

    hosts: list[Host]


class Span(Schema):
    """Which figures, and of when: the last `minutes` (15 without anything), or `from` one time `to` another.

    Times are Unix seconds or ISO 8601. `names`: comma-separated, or repeated; the usual ones without it.
    """

    names: list[str] = []
    minutes: float | None = Field(None, gt=0, le=527_040)
    begin: datetime | None = Field(None, alias="from")
    end: datetime | None = Field(None, alias="to")
    max_points: int = Field(600, ge=10, le=5000)


class Line(Schema):
    """A figure over time: Unix seconds by the host's clock, and at each the mean, minimum and maximum.

    None in all three: nothing was measured from here to the next point.
    """

    time: list[float]
    mean: list[float | None]
    min: list[float | None]
    max: list[float | None]


class History(Schema):
    """Figures of a host. `gaps`: [from, to] of the stretches in which nothing at all was measured."""

    resolution_seconds: int
    series: dict[str, Line]
    gaps: list[tuple[float, float]]


class OwnerlessProcess(Schema):
    """A process that holds GPU memory and that no live job owns. `is_ours`: Pilothouse started it, for a job now gone.

    `start_ticks` None: it can't be seen from the agent, and so not be ended.
    """

    host: str
    gpu_index: int
    gpu_uuid: str
    gpu_name: str
    pid: int
    start_ticks: int | None
    boot_id: str
    command: str
    user: str | None
    memory_used_bytes: int | None
    started_at: float | None
    age_seconds: float | None
    is_ours: bool


class OwnerlessList(Schema):
    """All of them, the largest first."""

    processes: list[OwnerlessProcess]


class EndProcess(Schema):
    """Which process, as it was listed. `others`: yes, although Pilothouse hasn't started it."""

    host: str
    pid: int = Field(ge=2)
    start_ticks: int = Field(ge=0)
    boot_id: str
    others: bool = False


class EndedProcess(Schema):
    """What became of it. `ended` False: `reason` says why (it had ended before, or hangs in the driver)."""

    host: str
    pid: int
    command: str
    ended: bool
    reason: str | None
