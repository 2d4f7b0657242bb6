"""What the calls about the inbox, the order of the queue and chains of runs take and answer."""

from typing import Any

from ninja import Schema

from controlplane.api.schemas.jobs import Job
from controlplane.api.schemas.tables import Listed


class InboxFile(Schema):
    """A file. `state`: settling, taking, validating, queued, running, done, failed, rejected; `reason` says why."""

    id: int
    filename: str
    priority: str
    state: str
    reason: str
    bytes: int
    sha256: str | None
    dataset_id: int | None
    run_id: int | None
    rejected_as: str | None
    seen_at: str
    taken_at: str | None
    ended_at: str | None


class Inbox(Listed):
    """Where files are put, whether they are taken, and the template that they start runs with."""

    enabled: bool
    folder: str
    template: str | None
    files: list[InboxFile]


class Queue(Schema):
    """`reason`: why no training run starts; `continue_on_error`: whether a failed run leaves the queue going."""

    paused: bool
    reason: str
    continue_on_error: bool
    jobs: list[Job]


class Pause(Schema):
    """Why the queue is paused, for those who wait."""

    reason: str = ""


class Move(Schema):
    """up, down, top or bottom."""

    to: str


class Chain(Schema):
    """A chain. `start_model` is what its next run starts from; `current_model` is null before its first one is done."""

    name: str
    base: str
    current_model: str | None
    start_model: str
    locked: dict[str, Any]
    runs: list[int]
    created_by: str
    created_at: str
    updated_at: str


class ChainList(Schema):
    """Chains, by name."""

    chains: list[Chain]
