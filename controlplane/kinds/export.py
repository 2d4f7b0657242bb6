"""Exports of models to GGUF: `fetch` jobs that write a model out instead of bringing one. Runs in the web process."""

from typing import Any

from controlplane.errors import NotFoundError
from controlplane.kinds.base import JobKind, model_artefact
from controlplane.models import Attempt, Job, LanguageModel
from controlplane.services import exports
from monitoring.events import Inputs, JobSpec
from monitoring.files import EXPORTS_FOLDER


class ExportPart(JobKind):
    """`config` holds {"export": kind, "model": uuid}."""

    name = "fetch"

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        model = LanguageModel.objects.select_related("base").filter(uuid=job.config["model"]).first()
        if model is None:
            raise NotFoundError("The model that was to be exported has been deleted.")
        base = model_artefact(model.base) if model.kind == "adapter" and model.base else None
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="fetch", verb="fetch", host=attempt.host.name,
            output_dir=str(model.folder / EXPORTS_FOLDER), inputs=Inputs(model=model_artefact(model), base=base),
            config={"export": job.config["export"]},
        )  # fmt: skip

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        exports.done(job, result)

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        exports.failed(job)

    def on_retry(self, job: Job) -> None:
        exports.retried(job)
