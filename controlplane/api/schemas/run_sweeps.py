"""What the calls about sweeps of training runs take and answer. Runs in the web process."""

from typing import Any

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.runs import RunDataset
from controlplane.api.schemas.tables import Listed


class Dimension(Schema):
    """A setting that is varied: `values`, or a range from `low` to `high` (`step`, or `log`: a logarithmic scale)."""

    model_config = ConfigDict(extra="forbid")

    field: str
    values: list[Any] | None = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False


class CreateRunSweep(Schema):
    """`method`: grid, random or tpe. `metric`: eval_loss or loss. `max_trials`: the whole grid, or 20, where left out.

    `config`: what all runs have, any subset of TrainerConfig, nested by section.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    dataset: int | str
    model: str
    space: list[Dimension]
    method: str = "tpe"
    metric: str = "eval_loss"
    max_trials: int | None = None
    max_parallel: int = 1
    seed: int = 42
    profile: str = "plain"
    priority: str = "normal"
    config: dict[str, Any] = Field(default_factory=dict)


class TrialCounts(Schema):
    """How many trials there are of each state."""

    running: int
    done: int
    failed: int


class RunSweep(Schema):
    """A sweep. `state`: running, paused, done or stopped; `reason` says why it paused by itself. `best`: a number."""

    id: int
    name: str
    state: str
    reason: str
    method: str
    metric: str
    space: list[dict[str, Any]]
    config: dict[str, Any]
    dataset: RunDataset
    model: str
    profile: str
    priority: str
    max_trials: int
    max_parallel: int
    seed: int
    counts: TrialCounts
    best: int | None
    best_value: float | None
    created_by: str
    created_at: str
    ended_at: str | None


class RunTrial(Schema):
    """A trial. `params`: values by path. `value`: the metric of one that is done; `last`: as last reported."""

    number: int
    params: dict[str, Any]
    state: str
    value: float | None
    error: str
    is_best: bool
    run_id: int | None
    run_status: str | None
    step: int | None
    last: float | None


class WholeRunSweep(RunSweep):
    """A sweep with its trials, in order."""

    trials: list[RunTrial]


class RunSweepList(Listed):
    """Sweeps, newest first."""

    sweeps: list[RunSweep]


class StopRunSweep(Schema):
    """`finish`: the runs that are there go on. `now`: they are cancelled."""

    mode: str = "finish"
