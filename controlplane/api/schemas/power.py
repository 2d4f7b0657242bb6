"""What the calls about power take and answer. Watts everywhere; None: not known."""

from datetime import datetime

from ninja import Field, Schema


class PowerProfile(Schema):
    """A profile on the first GPU. `max_concurrent_jobs`: training runs at once on each GPU that is set to it."""

    power_limit_w: float | None
    max_concurrent_jobs: int
    description: str


class PowerDrift(Schema):
    """What was found in force instead of what was wished, by another's doing. `over_at`: when it was right again."""

    found_watts: float
    wanted_watts: float
    since: datetime
    set_again: bool
    tries: int
    tried_at: datetime | None
    reason: str | None
    over_at: datetime | None


class Persistence(Schema):
    """Persistence mode: as read (`enabled`), as wished (`wanted`). `set` False: `reason` and `fix` say why."""

    enabled: bool | None
    wanted: bool | None
    set: bool | None
    reason: str | None
    fix: str | None
    set_at: datetime | None


class GpuPower(Schema):
    """One GPU: what was asked, what is in force, what is allowed. `set` False: `reason` and `fix` say why.

    `expected_w` is what should be in force: the profile's watts, or less while the thermal guard holds it (`held_w`).
    `heat_level`: 0 cool, 1 power is stepped down, 2 new jobs wait, 3 runs are paused.
    """

    host: str
    index: int
    uuid: str
    name: str
    profile: str | None
    profiles: dict[str, float | None]
    asked_w: float | None
    expected_w: float | None
    power_limit_w: float | None
    power_limit_default_w: float | None
    power_limit_min_w: float | None
    power_limit_max_w: float | None
    power_draw_w: float | None
    set: bool | None
    reason: str | None
    fix: str | None
    set_by: str | None
    set_at: str | None
    drift: PowerDrift | None
    persistence: Persistence
    heat_level: int
    heat_since: str | None
    held_w: float | None


class PowerOverview(Schema):
    """`current` is None where GPUs differ or none was asked for yet."""

    current: str | None
    profiles: dict[str, PowerProfile]
    gpus: list[GpuPower]


class PowerRequest(Schema):
    """Which profile, for which GPUs: all, one host's, or one."""

    profile: str | None = None
    host: str | None = None
    gpu: int | None = None
    strict: bool | None = None


class PowerOutcome(Schema):
    """What became of one GPU; `power_limit_w` is what was read back."""

    host: str
    index: int
    uuid: str
    name: str
    profile: str
    asked_w: float | None
    power_limit_w: float | None
    clamped: bool
    set: bool
    refused_by: str | None
    reason: str | None
    fix: str | None


class PowerAnswer(Schema):
    """The profile that was asked, and what became of each GPU."""

    profile: str
    gpus: list[PowerOutcome]


class PersistenceRequest(Schema):
    """Persistence mode on or off, on all GPUs, one host's, or one."""

    enabled: bool
    host: str | None = None
    gpu: int | None = None


class PersistenceOutcome(Schema):
    """What became of one GPU; `enabled` is what was read back."""

    host: str
    index: int
    uuid: str
    name: str
    asked: bool
    enabled: bool | None
    set: bool
    refused_by: str | None
    reason: str | None
    fix: str | None


class PersistenceAnswer(Schema):
    """What was asked, and what became of each GPU."""

    enabled: bool
    gpus: list[PersistenceOutcome]


class NewSchedule(Schema):
    """A profile from one time of day to another, local time; past midnight where `until` is the smaller.

    `days` on which it begins: 0 is Monday. Without `host` it is about every GPU, with `gpu` about that one alone.
    """

    profile: str
    begins: str = Field(examples=["22:00"])
    until: str = Field(examples=["07:00"])
    profile_after: str = "normal"
    days: list[int] = Field(default_factory=lambda: list(range(7)))
    host: str | None = None
    gpu: int | None = None
    is_enabled: bool = True


class ScheduleChanges(Schema):
    """What is to be different; what is left out stays."""

    profile: str | None = None
    begins: str | None = None
    until: str | None = None
    profile_after: str | None = None
    days: list[int] | None = None
    host: str | None = None
    gpu: int | None = None
    is_enabled: bool | None = None


class Schedule(Schema):
    """A schedule. `in_force`: its window is open now; `next_change_at`: when that changes."""

    id: int
    profile: str
    begins: str
    until: str
    profile_after: str
    days: list[int]
    host: str | None
    gpu: int | None
    is_enabled: bool
    in_force: bool
    next_change_at: datetime | None
    created_by: str
    created_at: datetime


class ScheduleList(Schema):
    """All schedules by the time at which they begin, and the time zone of their times."""

    time_zone: str
    schedules: list[Schedule]
