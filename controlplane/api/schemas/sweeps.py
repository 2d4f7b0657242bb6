"""What the calls about power sweeps take and answer. Runs in the web process."""

from ninja import Schema
from pydantic import ConfigDict

from controlplane.api.schemas.tables import Listed


class StartSweep(Schema):
    """`model` must be served on a GPU. `host` and `gpu` need not be said: they are those of its engine."""

    model_config = ConfigDict(extra="forbid")

    model: str
    host: str | None = None
    gpu: int | None = None
    seconds_per_profile: int = 30
    concurrency: int = 4
    max_tokens: int = 128


class SweepResult(Schema):
    """One profile under load. `watts`: the limit that was read back; `error`: why there are no figures."""

    profile: str
    watts: float | None
    tokens_per_second: float | None
    joules_per_token: float | None
    mean_draw_watts: float | None
    seconds: float | None
    tokens: float | None
    error: str | None


class SweepProgress(Schema):
    """What it does now, and for how many seconds."""

    profile: str
    phase: str
    seconds: float


class Sweep(Schema):
    """A sweep. `status`: waiting, running, cancelling, done, failed or cancelled. `reason`: why that one is best."""

    id: int
    model: str
    host: str
    gpu: int | None
    gpu_uuid: str
    gpu_name: str
    status: str
    seconds_per_profile: int
    concurrency: int
    max_tokens: int
    progress: SweepProgress | None
    results: list[SweepResult]
    recommended: str | None
    reason: str
    error: str
    created_by: str
    created_at: str
    ended_at: str | None


class SweepList(Listed):
    """Sweeps, newest first."""

    sweeps: list[Sweep]
