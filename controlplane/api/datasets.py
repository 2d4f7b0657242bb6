"""Datasets: /api/datasets. Runs in the web process."""

from pathlib import Path
from typing import Annotated, Any

from django.http import StreamingHttpResponse
from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.downloads import download as file_answer
from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.datasets import (
    Dataset,
    DatasetDetail,
    DatasetList,
    GeneratorList,
    Preview,
    Validate,
    Validation,
)
from controlplane.api.schemas.tables import DatasetQuery
from controlplane.errors import FieldFault, InvalidInputError, TooLargeError
from controlplane.services import dataset_checks, dataset_intake, datasets, lineage, profile_preview, sample_data
from controlplane.services.lineage import Lineage
from controlplane.services.tables import datasets as asked
from controlplane.services.tables import keyset

router = Router(tags=["Datasets"])
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "name"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string", "minLength": 1, "maxLength": 200},
                        "eval_fraction": {"type": "number", "minimum": 0, "maximum": 0.5, "default": 0.05},
                        "generator": {"type": "string", "maxLength": 100},
                        "generator_version": {"type": "string", "maxLength": 100},
                        "parents": {"type": "string", "description": "Ids of datasets, with commas between them."},
                    },
                }
            }
        },
    }
}
FRAME_BYTES = 1 << 20
"""What a form may have around its file."""

CONTENT_TYPES = {
    ".json": "application/json", ".txt": "text/plain", ".csv": "text/csv", ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet", ".gz": "application/gzip",
}  # fmt: skip
LINES_OF_JSON = "application/x-ndjson"


@router.post("/datasets", response={200: Dataset, 201: Dataset}, openapi_extra=FORM)
def create(request: ActorRequest) -> Status[dict[str, Any]]:
    """Takes a file of up to 32 MB as a form; larger ones go through the uploads."""
    declared = request.META.get("CONTENT_LENGTH") or "0"
    if declared.isdigit() and int(declared) > dataset_intake.SMALL_FILE_BYTES + FRAME_BYTES:
        raise TooLargeError(
            f"The form has {declared} bytes; {dataset_intake.SMALL_FILE_BYTES} are taken. {dataset_intake.OTHER_WAY}"
        )
    file = request.FILES.get("file")
    if file is None:
        raise InvalidInputError(
            "The form has no file: send multipart/form-data with the fields file and name.",
            (FieldFault("file", "a file"),),
        )
    name, fraction = str(request.POST.get("name", "")), _fraction(str(request.POST.get("eval_fraction") or "0.05"))
    said = Lineage(
        str(request.POST.get("generator", "")), str(request.POST.get("generator_version", "")),
        lineage.parents_from_text(str(request.POST.get("parents", ""))),
    )  # fmt: skip
    dataset, created = dataset_intake.receive_small(request.actor, file, name, fraction, said)
    return Status(201 if created else 200, datasets.facts(dataset))


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(
            f"eval_fraction must be a number between 0 and 0.5, not {text!r}.",
            (FieldFault("eval_fraction", "0 to 0.5"),),
        ) from None


@router.get("/datasets", response=DatasetList)
def list_datasets(
    request: ActorRequest, query: Annotated[DatasetQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 500
) -> dict[str, Any]:
    """Datasets, each version by itself, newest first, or in the order of `sort`."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    return {"datasets": [datasets.facts(dataset) for dataset in found.rows], **found.place}


@router.get("/datasets/generators", response=GeneratorList)
def list_generators(request: ActorRequest) -> dict[str, Any]:
    """Whose data fails most: generators by the share of their rows that were rejected."""
    return {"generators": lineage.generators()}


@router.post("/datasets/sample", response={200: Dataset, 201: Dataset})
def use_sample(request: ActorRequest) -> Status[dict[str, Any]]:
    """Takes in the dataset that comes with Pilothouse, as any upload (use); 200 where it is here already."""
    dataset, created = sample_data.use(request.actor)
    return Status(201 if created else 200, datasets.facts(dataset))


@router.get("/datasets/{int:dataset_id}", response=DatasetDetail)
def get_dataset(request: ActorRequest, dataset_id: int) -> dict[str, Any]:
    """One dataset with the report of its validation."""
    return datasets.whole_facts(datasets.get(dataset_id))


@router.post("/datasets/{int:dataset_id}/validate", response={202: Validation})
def validate(request: ActorRequest, dataset_id: int, payload: Validate) -> Status[dict[str, Any]]:
    """Checks a dataset once more, or more deeply."""
    dataset = datasets.get(dataset_id)
    job = dataset_checks.validate(
        request.actor, dataset, payload.level, profile=payload.profile, eval_dataset=payload.eval_dataset
    )
    return Status(202, {"job_id": job.pk, "dataset_id": dataset.pk, "level": payload.level})


@router.get("/datasets/{int:dataset_id}/preview", response=Preview, exclude_unset=True)
def preview(
    request: ActorRequest, dataset_id: int, offset: int = 0, limit: int = 20, profile: str = ""
) -> dict[str, Any]:
    """Rows as they will be trained on; with `profile`, each has `after`: what that data profile makes of it."""
    dataset = datasets.get(dataset_id)
    if profile:
        return profile_preview.preview(dataset, offset, limit, profile)
    return datasets.preview(dataset, offset, limit)


@router.get("/datasets/{int:dataset_id}/download", openapi_extra={"responses": {200: {"description": "The file."}}})
def download(request: ActorRequest, dataset_id: int) -> StreamingHttpResponse:
    """The file as it was uploaded."""
    dataset = datasets.get(dataset_id)
    file = datasets.source_path(dataset).open("rb")
    content_type = CONTENT_TYPES.get(Path(dataset.filename).suffix.lower(), LINES_OF_JSON)
    return file_answer(file, dataset.filename, content_type)


@router.delete("/datasets/{int:dataset_id}", response={204: None})
def delete_dataset(request: ActorRequest, dataset_id: int) -> Status[None]:
    """Takes a dataset and its files away; 409 while a run uses it."""
    datasets.delete(request.actor, dataset_id)
    return Status(204, None)
