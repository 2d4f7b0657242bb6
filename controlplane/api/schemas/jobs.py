"""What the calls about jobs take and answer."""

from typing import Any

from ninja import Schema


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


class JobList(Schema):
    """Jobs, newest first."""

    jobs: list[Job]


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
