"""What the calls about models take and answer."""

from typing import Any

from ninja import Field, Schema


class Model(Schema):
    """A model. `state`: fetching, ready or failed (`error` says why)."""

    id: str
    source: str
    hub_id: str | None
    path: str
    base_model: str | None
    kind: str
    size_bytes: int | None
    parameters: int | None
    dtype: str | None
    architecture: str | None
    tags: list[str]
    created_at: str
    created_by: str
    is_active: bool
    state: str
    error: str | None
    run_id: int | None
    checkpoint_step: int | None
    job_id: int | None
    progress: dict[str, Any] | None


class ModelList(Schema):
    """All models, the active one first."""

    models: list[Model]


class RegisterModel(Schema):
    """`source`: hub (with `hub_id`), directory (with `path`, an admin's), or smollm2."""

    id: str
    source: str
    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    tags: list[str] = Field(default_factory=list)


class ModelId(Schema):
    """A model by its id."""

    id: str


class Activation(Schema):
    """`active_model` is the one that answers now; `deployment` the engine that was asked for."""

    active_model: str | None
    deployment: int
    status: str
