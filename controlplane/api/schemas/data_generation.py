"""What the calls about generated data take and answer."""

from typing import Any, Literal

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.tables import Listed
from controlplane.services.data_generation import (
    DEFAULTS,
    LONGEST_DOMAIN,
    MAX_TOKENS,
    NUM_EXAMPLES,
    SEED,
    TEMPERATURE,
    THRESHOLD,
    TOP_P,
)


class GenerationConfig(Schema):
    """`output_dir` is the name of the dataset that is made. `dataset_ref`: the seeds, by id, or by name for the newest.

    `domain`: a subject that prompts keep to. `similarity_threshold`: new prompts at least so alike to a known one are
    dropped. `check`: only what passes the profile's own check is kept. `review` false: it becomes a dataset at once.
    """

    model_config = ConfigDict(extra="forbid")

    num_examples: int = Field(DEFAULTS["num_examples"], ge=NUM_EXAMPLES[0], le=NUM_EXAMPLES[1])
    domain: str = Field("", max_length=LONGEST_DOMAIN)
    output_dir: str = ""
    dataset_ref: int | str | None = None
    seed: int = Field(DEFAULTS["seed"], ge=SEED[0], le=SEED[1])
    temperature: float = Field(DEFAULTS["temperature"], ge=TEMPERATURE[0], le=TEMPERATURE[1])
    top_p: float = Field(DEFAULTS["top_p"], ge=TOP_P[0], le=TOP_P[1])
    max_tokens: int = Field(DEFAULTS["max_tokens"], ge=MAX_TOKENS[0], le=MAX_TOKENS[1])
    similarity_threshold: float = Field(DEFAULTS["similarity_threshold"], ge=THRESHOLD[0], le=THRESHOLD[1])
    check: bool = True
    review: bool = True


class CreateGeneration(Schema):
    """`strategy`: answer, paraphrase, self_instruct or regime3, which needs neither model nor seeds."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "model_id": "sea-style",
                    "strategy": "self_instruct",
                    "config": {"num_examples": 500, "domain": "sailing", "output_dir": "sea-2", "dataset_ref": "sea"},
                }
            ]
        },
    )

    model_id: str | None = ""
    strategy: str
    config: GenerationConfig = Field(default_factory=lambda: GenerationConfig.model_validate({}))
    priority: str = "normal"


class Shard(Schema):
    """A file of rows; `rows` and `sha256` are told when the job is done."""

    file: str
    rows: int | None
    sha256: str | None


class Seeds(Schema):
    """The seeds by the name that they had; `id` null: they have been deleted."""

    id: int | None
    name: str


class ExampleCounts(Schema):
    """How many rows are in each state."""

    pending: int
    accepted: int
    rejected: int
    edited: int


class Generation(Schema):
    """A generation and its job. `dataset_id`: what the output became, null until then.

    `result`, once it is done: `examples`, `dropped` {reason: rows}, `generated_tokens`, `seconds`. `is_read`: all rows
    are here to be reviewed. `fault`: why rows could not be read, or a dataset not be made by itself.
    """

    model_config = ConfigDict(protected_namespaces=())

    id: int
    job_id: int
    type: str
    name: str
    status: str
    model_id: str
    strategy: str
    config: dict[str, Any]
    seeds: Seeds | None
    progress: dict[str, Any] | None
    waiting_reason: str
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    shards: list[Shard]
    examples: ExampleCounts
    is_read: bool
    dataset_id: int | None
    fault: str
    created_by: str
    created_at: str
    ended_at: str | None


class GenerationList(Listed):
    """Generations, newest first."""

    generations: list[Generation]


class Turn(Schema):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class GeneratedExample(Schema):
    """A row. `original`: what was generated, where somebody has edited it; `seed_row` counts from 0."""

    number: int
    state: str
    messages: list[Turn]
    original: list[Turn] | None
    seed_row: int | None
    edited_by: str
    decided_by: str
    decided_at: str | None


class GeneratedExamples(Schema):
    """Rows in order; `total` counts all rows of that state."""

    total: int
    counts: ExampleCounts
    rows: list[GeneratedExample]


class Decide(Schema):
    """`state`: pending, accepted or rejected; `messages`: the row in other words. Either may be left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"state": "accepted"}]})

    state: str = ""
    messages: list[Turn] | None = Field(None, max_length=1000)


class Decided(Schema):
    """The row as it is now, and how many there are in each state."""

    row: GeneratedExample
    counts: ExampleCounts


class CheckExample(Schema):
    """A row as it is to be saved."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Turn] = Field(max_length=1000)


class ExampleFault(Schema):
    """One thing wrong with a row: a stable code and a sentence."""

    code: str
    message: str


class CheckedExample(Schema):
    """What is wrong with a row, and whether it may be saved all the same."""

    faults: list[ExampleFault]
    may_be_kept: bool


class Accepted(Schema):
    """How many rows were accepted."""

    accepted: int


class MakeDataset(Schema):
    """The dataset's name (left out: the generation's), and the share of rows that is kept for evaluation."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "sea-2"}]})

    name: str = ""
    eval_fraction: float = Field(0.05, ge=0, le=0.5)


class MadeDataset(Schema):
    """The dataset; its validation runs."""

    dataset_id: int
    name: str
    version: int
    status: str
