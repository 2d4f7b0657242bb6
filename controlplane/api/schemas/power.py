"""What the calls about power take and answer. Watts everywhere; None: not known."""

from ninja import Schema


class PowerProfile(Schema):
    """A profile on the first GPU. `max_concurrent_jobs` is the setting in force: profiles set watts alone."""

    power_limit_w: float | None
    max_concurrent_jobs: int
    description: str


class GpuPower(Schema):
    """One GPU: what was asked, what is in force, what is allowed. `set` False: `reason` and `fix` say why."""

    host: str
    index: int
    uuid: str
    name: str
    profile: str | None
    profiles: dict[str, float | None]
    asked_w: float | None
    power_limit_w: float | None
    power_limit_default_w: float | None
    power_limit_min_w: float | None
    power_limit_max_w: float | None
    power_draw_w: float | None
    set: bool | None
    reason: str | None
    fix: str | None
    set_at: str | None


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
