"""What the calls about training runs take and answer."""

from typing import Any

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.energy import Energy
from controlplane.api.schemas.tables import Listed


class CreateRun(Schema):
    """`dataset`: an id, or a name for its newest version. `config`: any subset of TrainerConfig, nested by section.

    `template`: a run template's name or id; what is given besides lies over it, and dataset and model may be left out
    where it has them. `model` may be left out where `config.model.chain` names a chain that is there. `based_on`: the
    run whose settings this one began with.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    template: int | str | None = None
    based_on: int | None = None
    dataset: int | str | None = None
    model: str = ""
    profile: str = "plain"
    priority: str = "normal"
    config: dict[str, Any] = Field(default_factory=dict)


class RunCreated(Schema):
    """The run and its job."""

    id: int
    job_id: int
    status: str


class RunDataset(Schema):
    """The dataset that a run trains on."""

    id: int
    name: str
    version: int


class RunProgress(Schema):
    """How far it is; None where nobody knows yet."""

    step: int
    total_steps: int | None
    epoch: float | None
    eta_seconds: float | None
    tokens_per_second: float | None


class Run(Schema):
    """A run. `origin`: `training` (here), `script` (elsewhere, which sends its points) or `files` (read from event
    files); of the latter two no dataset and no model is known, and `config` is their own. `last` has the last value of
    each metric; NaN and the infinities are strings. `energy`: None where no power could be read. `edition` counts the
    changes of name, tags, group and notes."""

    id: int
    job_id: int
    name: str
    tags: list[str]
    group: str
    notes: str
    edition: int
    status: str
    phase: str
    desired: str
    waiting_reason: str
    origin: str
    dataset: RunDataset | None
    model: str | None
    chain: str | None
    profile: str
    config: dict[str, Any]
    based_on: int | None
    host: str | None
    attempts: int
    progress: RunProgress
    last: dict[str, float | str]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    energy: Energy | None
    result_model: str | None
    created_by: str
    created_at: str
    started_at: str | None
    ended_at: str | None


class RunList(Listed):
    """Runs in order."""

    runs: list[Run]


class StopRun(Schema):
    """`save`: with a checkpoint and the model so far. `now`: at once."""

    mode: str = "save"


class GoOn(Schema):
    """`step`: of a checkpoint; the last one where it is left out. `learning_rate`: as it was where it is left out."""

    model_config = ConfigDict(extra="forbid")

    step: int | None = None
    learning_rate: float | None = None


class Checkpoint(Schema):
    """A checkpoint that is on the disk. `coming_from`: the host on which alone it lies until it has come home."""

    step: int
    loss: float | None
    eval_loss: float | None
    bytes: int
    created_at: str
    is_best: bool
    is_kept: bool
    is_pinned: bool
    coming_from: str | None


class KeepCheckpoint(Schema):
    """Whether it is pinned: retention leaves it alone then."""

    keep: bool = True


class RegisterCheckpoint(Schema):
    """What the model is to be called."""

    id: str
