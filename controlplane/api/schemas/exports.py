"""What the calls about exports take and answer."""

from ninja import Schema
from pydantic import ConfigDict


class CreateExport(Schema):
    """`kind`: Q4_K_M (4 bits), Q8_0 (8 bits), F16 or F32."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: str
    kind: str = "Q8_0"


class Export(Schema):
    """A GGUF file of a model. `state`: making, ready or failed (`error` says why)."""

    id: int
    model_id: str
    kind: str
    state: str
    filename: str
    size_bytes: int | None
    sha256: str | None
    job_id: int | None
    error: str | None
    created_by: str
    created_at: str


class ExportList(Schema):
    """Exports, by model, the smallest first."""

    exports: list[Export]
