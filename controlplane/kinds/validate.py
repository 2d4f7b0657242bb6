"""Validation of a dataset. Runs in the web process."""

from typing import Any

from controlplane.kinds.base import JobKind, model_artefact
from controlplane.live.announce import publish
from controlplane.models import Attempt, Dataset, Job, LanguageModel
from controlplane.models.language_models import ModelState
from controlplane.services import datasets, settings
from monitoring import events as ev
from monitoring.events import Artefact, Event, Inputs, JobSpec


class ValidateKind(JobKind):
    """`config` holds {"dataset": id}; the tokenizer is that of the newest model that is ready, where there is one."""

    name = "validate"

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        dataset = datasets.get(int(job.config["dataset"]))
        model = LanguageModel.objects.filter(state=ModelState.READY).order_by("-created_at").first()
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="validate", verb="validate", host=attempt.host.name,
            output_dir=str(dataset.folder),
            config={
                "max_fault_fraction": settings.get("datasets.max_fault_fraction"),
                "token_sample_rows": settings.get("datasets.token_sample_rows"),
                "max_unpacked_bytes": settings.get("datasets.max_unpacked_bytes"),
                "filename": dataset.filename,
            },
            inputs=Inputs(
                dataset=Artefact(str(dataset.pk), str(dataset.folder), dataset.sha256),
                model=model_artefact(model) if model else None,
            ),
        )  # fmt: skip

    def on_events(self, job: Job, attempt: Attempt, events: list[Event]) -> None:
        for event in events[-1:]:
            if isinstance(event.body, ev.Progress):
                progress = {"done": event.body.done, "total": event.body.total, "unit": event.body.unit}
                publish("datasets", "progress", {"id": job.config["dataset"], **progress})

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        datasets.finished(int(job.config["dataset"]), result)

    def on_retry(self, job: Job) -> None:
        datasets.validating(int(job.config["dataset"]))

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        if Dataset.objects.filter(pk=job.config["dataset"]).exists():
            datasets.failed(int(job.config["dataset"]), error)
