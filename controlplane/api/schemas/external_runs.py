"""What the calls about runs that are made elsewhere take and answer."""

from typing import Any
from uuid import UUID

from ninja import Field, Schema
from pydantic import ConfigDict


class CreateExternalRun(Schema):
    """A run whose points a script sends. `config`: its settings, as it likes; they are shown and compared."""

    model_config = ConfigDict(extra="forbid")

    name: str
    config: dict[str, Any] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    group: str = ""
    notes: str = ""
    total_steps: int | None = Field(None, ge=1, le=2**53 - 1)


class ImportRun(Schema):
    """Event files of TensorBoard that become one run: `uploads` are the ids of whole uploads."""

    model_config = ConfigDict(extra="forbid")

    uploads: list[UUID]
    name: str
    tags: list[str] = Field(default_factory=list)
    group: str = ""
    notes: str = ""


class PointsStored(Schema):
    """`left_out`: values whose metric has that step or a later one already. `repeated`: the batch was here before."""

    stored: int
    left_out: int
    last_step: int
    repeated: bool


class FinishRun(Schema):
    """`done` or `failed`, with a word on it."""

    model_config = ConfigDict(extra="forbid")

    status: str = "done"
    message: str = ""
