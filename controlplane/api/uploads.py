"""Files on their way in: /api/uploads. Runs in the web process."""

from typing import Any

from ninja import Router, Status

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.datasets import BeginUpload, CompleteUpload, Dataset, Part, Upload
from controlplane.errors import InvalidInputError
from controlplane.services import datasets, uploads
from controlplane.services.lineage import Lineage

router = Router(tags=["Uploads"])
RAW_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/uploads", response={201: Upload})
def begin(request: ActorRequest, payload: BeginUpload) -> Status[dict[str, Any]]:
    """Begins an upload. Cut the file into parts of `part_bytes`, send each, then complete."""
    upload = uploads.begin(request.actor, payload.filename, payload.bytes, payload.sha256, payload.purpose)
    return Status(201, uploads.facts(upload))


@router.get("/uploads/{uuid:upload_id}", response=Upload)
def get_upload(request: ActorRequest, upload_id: str) -> dict[str, Any]:
    """Which parts are here: after a break, send the others."""
    return uploads.status(request.actor, str(upload_id))


@router.put("/uploads/{uuid:upload_id}/parts/{int:number}", response=Part, openapi_extra=RAW_BODY)
def put_part(request: ActorRequest, upload_id: str, number: int) -> dict[str, Any]:
    """Stores part `number` (from 1): the raw bytes as the body. The same part again takes the old one's place."""
    upload = uploads.get(request.actor, str(upload_id))
    expected, declared = uploads.part_size(upload, number), request.META.get("CONTENT_LENGTH") or ""
    if declared and declared != str(expected):
        raise InvalidInputError(f"Part {number} must have {expected} bytes; {declared} were announced. Send it again.")
    return {"part": number, "bytes": uploads.write_part(request.actor, str(upload_id), number, request)}


@router.post("/uploads/{uuid:upload_id}/complete", response={200: Dataset, 201: Dataset})
def complete(request: ActorRequest, upload_id: str, payload: CompleteUpload) -> Status[dict[str, Any]]:
    """Makes the dataset. 200 with the dataset that is here already when the same bytes came before."""
    said = Lineage(payload.generator, payload.generator_version, tuple(payload.parents))
    dataset, created = uploads.complete(request.actor, str(upload_id), payload.name, payload.eval_fraction, said)
    return Status(201 if created else 200, datasets.facts(dataset))


@router.delete("/uploads/{uuid:upload_id}", response={204: None})
def abandon(request: ActorRequest, upload_id: str) -> Status[None]:
    """Gives an upload up."""
    uploads.abandon(request.actor, str(upload_id))
    return Status(204, None)
