"""What the calls about jobs take and answer."""

from typing import Annotated, Any

from ninja import Schema
from pydantic import ConfigDict, Field

from controlplane.api.schemas.tables import Listed


class Job(Schema):
    """A job. `type` and `kind` are the same word; `error` is {"code", "message", "fix"}."""

    id: int
    job_id: int
    type: str
    kind: str
    title: str
    status: str
    desired: str
    phase: str
    priority: str
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    waiting_reason: str
    run_id: int | None
    host: str | None
    attempts: int
    created_by: str
    created_at: str
    started_at: str | None
    ended_at: str | None


class JobList(Listed):
    """Jobs, newest first."""

    jobs: list[Job]


class HostAnswer(Schema):
    """What one host says to a waiting job. `outlook`: room, or how soon there may be: busy, fault, closed, unfit."""

    host: str
    outlook: str
    reason: str


class Placed(Schema):
    """Where an attempt went, and why there."""

    attempt: int
    host: str
    because: str


class Waiting(Schema):
    """Why a job waits, host by host; `reason` is empty where it doesn't wait. `placed`: the last attempts."""

    job_id: int
    reason: str
    hosts: list[HostAnswer]
    placed: list[Placed]


class Priority(Schema):
    """high, normal or low."""

    priority: str


class JobStatistics(Schema):
    """How many jobs there are in each status (engines left out), and how many ended in the last hour."""

    pending: int
    running: int
    paused: int
    done: int
    failed: int
    cancelled: int
    jobs_last_hour: int


class LogAttempt(Schema):
    """An attempt of a job: one process that was started for it."""

    number: int
    host: str
    created_at: str
    ended_at: str | None


class LogLine(Schema):
    """One line: its byte offset, its number from 1, and how many of its bytes were left out.

    `open`: it has no end yet and may say more the next time.
    """

    start: int
    number: int
    level: str
    text: str
    cut_bytes: int
    open: bool


class JobLog(Schema):
    """Lines of a log from byte `start` to `end` of `size`; `number` and `end_number` are those of the lines there.

    With a level or a search `lines` are those found between the two. `ended`: nobody writes to it any more.
    """

    job_id: int
    attempt: int | None
    attempts: list[LogAttempt]
    lines: list[LogLine]
    start: int
    end: int
    size: int
    number: int
    end_number: int
    ended: bool


class LogQuery(Schema):
    """Which lines: the last ones before byte `before` (the end without it), or the first from `after` on.

    `level`: of it at least, of debug, info, warning and error. `number`: that of the line at `before` or `after`, where
    it is known; it saves counting.
    """

    attempt: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    before: Annotated[int, Field(ge=0, lt=1 << 62)] | None = None
    after: Annotated[int, Field(ge=0, lt=1 << 62)] | None = None
    number: Annotated[int, Field(ge=1, lt=1 << 62)] | None = None
    lines: int = 500
    level: str = ""
    search: str = ""


class ModelJob(Schema):
    """A job that has just been queued for a model; `id` is of what it is for."""

    model_config = ConfigDict(protected_namespaces=())

    job_id: int
    id: int
    type: str
    model_id: str
    status: str
