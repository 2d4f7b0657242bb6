"""What the calls about evaluations take and answer."""

from typing import Any

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.tables import Listed
from controlplane.services.evaluations import MAX_SAMPLES, MAX_TOKENS


class CreateEvaluation(Schema):
    """`model_id`: a registered model; or `run_id` with `checkpoint_step`, which is asked what its run holds out.

    `dataset_ref`: a dataset's id, or its name for the newest version. `rows`: `held_out` or `all`; left out: held_out
    where the dataset holds some out. `regex`: the pattern of the metric of that name.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: str | None = None
    run_id: int | None = None
    checkpoint_step: int | None = None
    name: str = ""
    dataset_ref: int | str | None = None
    metrics: list[str] = Field(default_factory=lambda: ["accuracy", "loss"])
    max_samples: int = Field(1000, ge=MAX_SAMPLES[0], le=MAX_SAMPLES[1])
    per_example_logging: bool = True
    rows: str = ""
    max_tokens: int = Field(256, ge=MAX_TOKENS[0], le=MAX_TOKENS[1])
    regex: str = ""
    priority: str = "normal"


class EvaluationDataset(Schema):
    """The dataset by the name that it had; `id` null: it has been deleted."""

    id: int | None
    name: str


class EvaluatedExample(Schema):
    """A row as it was logged. `scores` by metric, 0 to 1; `loss` in nats a token; `error`: why it has no answer."""

    row: int
    question: str | None
    expected: str | None
    answer: str | None
    scores: dict[str, float]
    faults: list[str]
    finish_reason: str | None
    error: str
    loss: float | None


class EvaluatedExamples(Schema):
    """A page of the log; `total` counts all rows that match."""

    total: int
    offset: int
    rows: list[EvaluatedExample]


class Evaluation(Schema):
    """An evaluation and its job. `max_samples` null: all rows.

    `result`, once it is done: `accuracy`, `correct`, `total_samples`, `avg_loss` (nats a token), `failed`, one entry
    for each metric that was asked for, and `ci95`: {metric: [low, high]}. `warning`: why the figures may flatter.
    """

    model_config = ConfigDict(protected_namespaces=())

    id: int
    job_id: int
    type: str
    name: str
    status: str
    model_id: str
    run_id: int | None
    checkpoint_step: int | None
    dataset: EvaluationDataset
    rows: str
    max_samples: int | None
    metrics: list[str]
    max_tokens: int
    pattern: str
    per_example_logging: bool
    progress: dict[str, Any] | None
    waiting_reason: str
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    warning: str
    created_by: str
    created_at: str
    ended_at: str | None
    examples: EvaluatedExamples | None = None


class EvaluationList(Listed):
    """Evaluations, newest first."""

    evaluations: list[Evaluation]


class RunEvaluations(Schema):
    """All evaluations of a run's checkpoints that were asked for, by step."""

    evaluations: list[Evaluation]


class ComparedSide(Schema):
    """One of the two."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    model_id: str


class ComparedMetric(Schema):
    """One metric over the rows that both have: `difference` is first − second, between `low` and `high`.

    `sentence` says in words whether it is real. Figures are null where they can't be compared.
    """

    metric: str
    rows: int | None
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    test: str | None
    is_real: bool
    sentence: str


class Comparison(Schema):
    """Two evaluations of the same rows."""

    first: ComparedSide
    second: ComparedSide
    confidence: float
    metrics: list[ComparedMetric]


class LeaderboardEntry(Schema):
    """A model's place. `note`: whether the first one is really better, by a paired test."""

    model_config = ConfigDict(protected_namespaces=())

    rank: int
    evaluation_id: int
    model_id: str
    value: float
    low: float | None
    high: float | None
    note: str


class Leaderboard(Schema):
    """The models that were asked the same rows of a dataset, the best first. `max_samples` null: all of them."""

    rows: str
    max_samples: int | None
    entries: list[LeaderboardEntry]


class LeaderboardList(Schema):
    """A table for each choice of rows."""

    dataset: EvaluationDataset
    metric: str
    tables: list[Leaderboard]


class Promote(Schema):
    """By which of its metrics it must beat the active model, and with which confidence (0.5 to 0.999)."""

    model_config = ConfigDict(extra="forbid")

    metric: str = "accuracy"
    confidence: float = 0.95


class Promotion(Schema):
    """`state`: evaluating, registering, activated, refused or failed; `sentence` says how it came out.

    `model_id`: what is activated, null until it is known.
    """

    model_config = ConfigDict(protected_namespaces=())

    id: int
    state: str
    sentence: str
    metric: str
    confidence: float
    candidate: str
    champion: str
    candidate_job_id: int
    champion_job_id: int
    model_id: str | None
    created_by: str
    created_at: str
    ended_at: str | None


class PromotionList(Schema):
    """Promotions, newest first."""

    promotions: list[Promotion]


class EvaluateCheckpoints(Schema):
    """How a run's checkpoints are evaluated."""

    model_config = ConfigDict(extra="forbid")

    metrics: list[str] = Field(default_factory=lambda: ["accuracy", "loss"])
    max_samples: int = Field(200, ge=MAX_SAMPLES[0], le=MAX_SAMPLES[1])
    max_tokens: int = Field(256, ge=MAX_TOKENS[0], le=MAX_TOKENS[1])
