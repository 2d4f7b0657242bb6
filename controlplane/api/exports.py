"""Models as GGUF files: /api/exports. Runs in the web process."""

from typing import Any

from django.http import StreamingHttpResponse
from ninja import Router, Status

from controlplane.api.downloads import download
from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.exports import CreateExport, Export, ExportList
from controlplane.services import exports

router = Router(tags=["Models"])
CONTENT_TYPE = "application/octet-stream"


@router.get("/exports", response=ExportList)
def list_exports(request: ActorRequest, model_id: str = "") -> dict[str, Any]:
    """The exports of one model, or of all."""
    return {"exports": [exports.facts(row) for row in exports.list_exports(model_id)]}


@router.post("/exports", response={201: Export})
def create_export(request: ActorRequest, payload: CreateExport) -> Status[dict[str, Any]]:
    """Writes a model to one GGUF file by a job, for llama.cpp, Ollama and LM Studio; an adapter with its base."""
    return Status(201, exports.facts(exports.create(request.actor, payload.model_id, payload.kind)))


@router.get("/exports/{int:export_id}", response=Export)
def get_export(request: ActorRequest, export_id: int) -> dict[str, Any]:
    """One export; it is `ready` when its job is done."""
    return exports.facts(exports.get(export_id))


@router.get("/exports/{int:export_id}/download", openapi_extra={"responses": {200: {"description": "The file."}}})
def download_export(request: ActorRequest, export_id: int) -> StreamingHttpResponse:
    """The file."""
    row, file = exports.opened(request.actor, export_id)
    return download(file, row.filename, CONTENT_TYPE)


@router.delete("/exports/{int:export_id}", response={204: None})
def delete_export(request: ActorRequest, export_id: int) -> Status[None]:
    """Takes an export and its file away; 409 while it is made, or while the model is served from it."""
    exports.delete(request.actor, export_id)
    return Status(204, None)
