"""What the calls that list a table take and answer: filters, order and place, as its page has them in its address."""

from ninja import Field, Schema
from pydantic import ConfigDict


class Listed(Schema):
    """Rows in order. `after` and `before` ask for the pages around them, null at the ends.

    `count`: how many there are in all, counted to 10,000 (`is_whole_count` false: there are more).
    """

    after: str | None
    before: str | None
    count: int
    is_whole_count: bool


class TableQuery(Schema):
    """`q`: words that must be found; `sort`: a column, with a minus from large to small; `after`, `before`: cursors of
    an answer."""

    q: str = ""
    sort: str = ""
    after: str = ""
    before: str = ""


class JobQuery(TableQuery):
    """Jobs: `status` and `type` may come several times. Columns: job, status, host, place, took, ended, created."""

    status: list[str] = Field(default_factory=list)
    type: list[str] = Field(default_factory=list)
    host: str = ""
    created_by: str = ""


class DatasetQuery(TableQuery):
    """Datasets: `status` may come several times. Columns: dataset, status, examples, bytes, filename, created_by,
    created."""

    status: list[str] = Field(default_factory=list)
    name: str = ""
    generator: str = ""
    created_by: str = ""


class ModelQuery(TableQuery):
    """Models: `state` may come several times. Columns: model, state, parameters, bytes, kind, created, usual (the
    active one, then the newest)."""

    state: list[str] = Field(default_factory=list)
    family: str = ""
    source: str = ""
    kind: str = ""


class EvaluationQuery(TableQuery):
    """Evaluations: `status` may come several times. Columns: evaluation, status, dataset, created."""

    status: list[str] = Field(default_factory=list)
    model: str = ""
    dataset: str = ""
    created_by: str = ""


class GenerationQuery(TableQuery):
    """Generations: `status` and `strategy` may come several times. Columns: data, status, seeds, dataset, created."""

    status: list[str] = Field(default_factory=list)
    strategy: list[str] = Field(default_factory=list)
    model: str = ""
    created_by: str = ""


class SweepQuery(TableQuery):
    """Sweeps: `state` may come several times. Columns: sweep, state, trials, model, dataset, created."""

    state: list[str] = Field(default_factory=list)
    model: str = ""
    dataset: str = ""
    created_by: str = ""


class InboxQuery(TableQuery):
    """The inbox: `state` may come several times. Columns: file, state, bytes, seen, usual (under way, then the
    newest)."""

    state: list[str] = Field(default_factory=list)


class PowerSweepQuery(TableQuery):
    """Power sweeps: `status` may come several times. Columns: sweep, status, gpu, recommended, created_by, created."""

    status: list[str] = Field(default_factory=list)
    model: str = ""
    host: str = ""
    created_by: str = ""


class ConversationQuery(TableQuery):
    """Conversations; `search` is `q` by its older name. Columns: conversation, model, used."""

    search: str = ""


class AlertQuery(TableQuery):
    """Alerts: `open` true what goes on, false what is over; `rule` and `severity` may come several times.

    Columns: what, severity, lasted, created. `before_id`: older ones than this, without a cursor.
    """

    is_open: bool | None = Field(None, alias="open")
    rule: list[str] = Field(default_factory=list)
    severity: list[str] = Field(default_factory=list)
    before_id: int | None = None


class AuditQuery(TableQuery):
    """The audit log. Columns: time, actor, action, target, address. `before_id`: older lines, without a cursor."""

    actor: str = ""
    action: str = ""
    target: str = ""
    before_id: int | None = None


class KeyQuery(TableQuery):
    """Keys: `state` is valid, revoked or expired; `role` may come several times. Columns: key, role, created, used,
    expires."""

    state: str = ""
    role: list[str] = Field(default_factory=list)
    created_by: str = ""


class Many(Schema):
    """`rows`: the numbers of rows (of models the ids). `action`: what is done to each."""

    model_config = ConfigDict(extra="forbid")

    rows: list[int | str]
    action: str


class RefusedRow(Schema):
    """A row that was left alone, and why."""

    row: int | str
    reason: str


class ManyOutcome(Schema):
    """What became of each row."""

    done: list[int | str]
    refused: list[RefusedRow]
