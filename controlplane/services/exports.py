"""Exports of models to GGUF: asked for, listed, read, deleted; what their jobs report. Runs in the web process."""

from typing import Any, BinaryIO

from django.db import transaction

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Job, LanguageModel, ModelExport
from controlplane.models.access import Actor, Role
from controlplane.models.exports import ExportKind
from controlplane.models.jobs import Kind
from controlplane.models.language_models import EngineName, ModelState
from controlplane.services import jobs, models
from controlplane.services.access import audit
from controlplane.services.key_limits import check_model

FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""The architectures that there is a way to export; the job looks closer."""

WORDS = {
    ExportKind.Q4_K_M: "4 bits, the smallest and the fastest on a processor",
    ExportKind.Q8_0: "8 bits, nearly as exact as the original",
    ExportKind.F16: "16 bits",
    ExportKind.F32: "32 bits, exact, for comparisons",
}


def can_export(model: LanguageModel) -> bool:
    """Whether the model is of a family that can be exported."""
    whole = model.base if model.kind == "adapter" and model.base is not None else model
    return model.state == ModelState.READY and whole.architecture in FAMILIES


def create(actor: Actor, model_name: str, kind: str) -> ModelExport:
    """Queues the export of a model; an adapter is merged into its base first. One that failed is tried again.

    Raises NotFoundError, InvalidInputError, ConflictError, and ForbiddenError for a model that the key may not use.
    """
    actor.require(Role.USE)
    model = models.get(model_name)
    check_model(actor, model.name)
    if kind not in ExportKind.values:
        known = ", ".join(ExportKind.values)
        raise InvalidInputError(f"There is no export {kind!r}: choose {known}.", (FieldFault("kind", known),))
    if model.state != ModelState.READY:
        raise ConflictError(f"The model {model.name} is {model.state}: only one that is ready can be exported.")
    if not can_export(model):
        raise ConflictError(f"{model.name} can't be exported to GGUF: only the families Llama, Qwen2 and Qwen3 can.")
    with transaction.atomic():
        LanguageModel.objects.select_for_update().get(pk=model.pk)
        present = ModelExport.objects.filter(model=model, kind=kind).select_related("job").first()
        if present is not None and present.state != "failed":
            word = "there already" if present.state == "ready" else f"being made by job {present.job_id}"
            raise ConflictError(f"The export {kind} of {model.name} is {word}.")
        job = jobs.create(
            actor, Kind.FETCH, f"Export {model.name} as {kind}", {"export": kind, "model": str(model.uuid)}
        )
        made, _ = ModelExport.objects.update_or_create(
            model=model, kind=kind, defaults={"job": job, "created_by": actor.name}
        )
        audit(actor, "model.export", model.name, kind=kind)
        _announce(model)
    return made


def list_exports(model_name: str = "") -> list[ModelExport]:
    """The exports of one model or of all. Raises NotFoundError."""
    rows = ModelExport.objects.select_related("model", "job")
    if model_name:
        rows = rows.filter(model=models.get(model_name))
    order = {kind: place for place, kind in enumerate(ExportKind.values)}
    return sorted(rows, key=lambda row: (row.model.name, order[row.kind]))


def ready_kinds(model: LanguageModel) -> list[str]:
    """The kinds that are there, the smallest first."""
    found = set(ModelExport.objects.filter(model=model).exclude(sha256="").values_list("kind", flat=True))
    return [kind for kind in ExportKind.values if kind in found]


def served(model: LanguageModel, gguf: str) -> ModelExport | None:
    """The export that llama_cpp serves: the one of kind `gguf`, or the smallest there is ("" of them); None where it
    isn't there."""
    kind = gguf or next(iter(ready_kinds(model)), "")
    return ModelExport.objects.filter(model=model, kind=kind).exclude(sha256="").first()


def get(export_id: int) -> ModelExport:
    """The export. Raises NotFoundError."""
    row = ModelExport.objects.select_related("model", "job").filter(pk=export_id).first()
    if row is None:
        raise NotFoundError(f"There is no export {export_id}.")
    return row


def facts(row: ModelExport) -> dict[str, Any]:
    """An export as the API tells it."""
    error = row.job.error if row.job is not None and row.state == "failed" else None
    return {
        "id": row.pk, "model_id": row.model.name, "kind": row.kind, "state": row.state, "filename": row.filename,
        "size_bytes": row.size_bytes, "sha256": row.sha256 or None, "job_id": row.job_id,
        "error": " ".join(filter(None, (error.get("message"), error.get("fix")))) if error else None,
        "created_by": row.created_by, "created_at": row.created_at.isoformat(),
    }  # fmt: skip


def opened(actor: Actor, export_id: int) -> tuple[ModelExport, BinaryIO]:
    """The export and its file, which the caller closes. Raises NotFoundError, ConflictError, ForbiddenError."""
    actor.require(Role.USE)
    row = get(export_id)
    check_model(actor, row.model.name)
    if row.state != "ready":
        raise ConflictError(f"The export {row} is {row.state}: only one that is ready can be downloaded.")
    try:
        file = row.path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"The file of the export {row} is gone. Delete the export and make it again.") from error
    audit(actor, "model.export.download", row.model.name, kind=row.kind)
    return row, file


def delete(actor: Actor, export_id: int) -> None:
    """Takes an export and its file away. Raises ConflictError while it is made, or while the model is served by it."""
    actor.require(Role.USE)
    row = get(export_id)
    actor.require_owner(f"The export {row}", row.created_by)
    model = row.model
    if row.state == "making":
        raise ConflictError(f"The export {row} is being made by job {row.job_id}. Cancel that first.")
    if model.engine == EngineName.LLAMA_CPP and row == served(model, model.gguf):
        raise ConflictError(f"{model.name} is served from its export {row.kind}. Set another engine for it first.")
    with transaction.atomic():
        path = row.path
        row.delete()
        audit(actor, "model.export.delete", model.name, kind=row.kind)
        _announce(model)
    path.unlink(missing_ok=True)


# --- What the job says, called inside ingest transactions -------------------------------------------------------------


def done(job: Job, result: dict[str, Any]) -> None:
    """The file is there."""
    row = ModelExport.objects.filter(job=job).select_related("model").first()
    if row is not None:
        row.size_bytes, row.sha256 = result["size_bytes"], result["sha256"]
        row.save(update_fields=["size_bytes", "sha256"])
        _announce(row.model)


def failed(job: Job) -> None:
    """It won't be tried again by itself: pages look anew."""
    row = ModelExport.objects.filter(job=job).select_related("model").first()
    if row is not None:
        _announce(row.model)


def retried(job: Job) -> None:
    """It is queued once more. Raises ConflictError where the export is gone or another job makes it now."""
    row = ModelExport.objects.filter(job=job).select_related("model").first()
    if row is None:
        raise ConflictError(f"Job {job.pk} makes no export any more: ask for the export anew on the model's page.")
    _announce(row.model)


def _announce(model: LanguageModel) -> None:
    publish("models", "status", models.facts(model))
