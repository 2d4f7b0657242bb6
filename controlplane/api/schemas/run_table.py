"""What the calls about many runs take and answer: words on them, one thing done to many, saved views, comparison."""

from typing import Any

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.curves import MetricSeries
from controlplane.api.schemas.tables import TableQuery


class RunQuery(TableQuery):
    """Filters, order and place, as the page of runs has them in its address. `q`: words that are in the name, notes,
    group or a tag; `state` may come several times; `tag`: all of these, with commas between; `where`: conditions on
    figures and settings (`loss<2, learning_rate>=1e-4`); `sort`: a column, with a minus from large to small (`name` is
    `run`; a setting by its path, a metric as `last.KEY`)."""

    state: list[str] = Field(default_factory=list)
    where: str = ""
    model: str = ""
    dataset: str = ""
    profile: str = ""
    group: str = ""
    tag: str = ""
    started_by: str = ""
    before_id: int | None = None


class ChangeRun(Schema):
    """What is to be changed; `tags` as a whole. With `edition` (as the run tells it) a change that came in between is
    refused with 409 and named, without it the last one counts."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    tags: list[str] | None = None
    group: str | None = None
    notes: str | None = None
    edition: int | None = None


class ManyRuns(Schema):
    """`action`: tag, untag, group, stop (with a checkpoint), cancel or delete. `text`: the tags, with commas between
    them, or the group (empty: none)."""

    model_config = ConfigDict(extra="forbid")

    runs: list[int]
    action: str
    text: str = ""


class RefusedRun(Schema):
    """A run that was left alone, and why."""

    run: int
    reason: str


class ManyRunsOutcome(Schema):
    """What became of each run."""

    done: list[int]
    refused: list[RefusedRun]


class SaveView(Schema):
    """`query`: the part of the table's address behind the question mark, or what `GET /api/runs` takes."""

    model_config = ConfigDict(extra="forbid")

    name: str
    query: str = ""


class ShareView(Schema):
    """Whether everybody sees it."""

    model_config = ConfigDict(extra="forbid")

    is_shared: bool


class View(Schema):
    """A saved view: the page is /runs/?QUERY."""

    id: int
    name: str
    query: str
    is_shared: bool
    created_by: str
    created_at: str


class ViewList(Schema):
    """One's own views and those that are shared, by name."""

    views: list[View]


class WhichRuns(Schema):
    """The runs of a comparison: `runs` (their numbers, with commas between), else a saved `view`, else a `group`."""

    runs: str = ""
    view: int | None = None
    group: str = ""


class ComparedRun(Schema):
    """A run of a comparison."""

    id: int
    name: str
    status: str


class ComparedSetting(Schema):
    """One setting that differs; values in the order of `runs`."""

    path: str
    title: str
    unit: str
    values: list[Any]


class ComparedMetric(Schema):
    """Last values in the order of `runs`, None where a run has none; `best`: the runs with the best of them, empty
    where nobody knows which way it is better."""

    key: str
    values: list[float | str | None]
    best: list[int]


class Comparison(Schema):
    """Two to twenty runs side by side."""

    runs: list[ComparedRun]
    settings: list[ComparedSetting]
    metrics: list[ComparedMetric]


class ComparedCurves(Schema):
    """The curve of one metric by the run's number; runs without it are left out."""

    key: str
    series: dict[str, MetricSeries]
