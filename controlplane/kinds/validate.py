"""Validation of a dataset. Runs in the web process."""

from typing import Any

from controlplane.kinds.base import JobKind, model_artefact
from controlplane.live.announce import publish
from controlplane.models import Attempt, Job, LanguageModel
from controlplane.models.datasets import Level
from controlplane.models.language_models import ModelState
from controlplane.services import dataset_checks, datasets, lineage, settings
from monitoring import events as ev
from monitoring.events import Artefact, Event, Inputs, JobSpec


class ValidateKind(JobKind):
    """`config` holds {"dataset", "level", "profile", "eval_dataset"}; all but the first may be missing.

    The tokenizer is that of the newest model that is ready, where there is one.
    """

    name = "validate"
    in_library = True

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        dataset = datasets.get(int(job.config["dataset"]))
        held = job.config.get("eval_dataset")
        model = LanguageModel.objects.filter(state=ModelState.READY).order_by("-created_at").first()
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="validate", verb="validate", host=attempt.host.name,
            output_dir=str(dataset.folder),
            config={
                "level": _level(job), "profile": job.config.get("profile", ""),
                "eval_folder": str(datasets.get(int(held)).folder) if held is not None else "",
                "examples": dataset.examples or 0, "eval_fraction": dataset.eval_fraction,
                "max_fault_fraction": settings.get("datasets.max_fault_fraction"),
                "token_sample_rows": settings.get("datasets.token_sample_rows"),
                "max_unpacked_bytes": settings.get("datasets.max_unpacked_bytes"),
                "filename": dataset.filename, "lineage": lineage.said(dataset),
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
        dataset_checks.finished(int(job.config["dataset"]), result)

    def on_retry(self, job: Job) -> None:
        dataset_checks.validating(int(job.config["dataset"]), _level(job))

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        dataset_checks.failed(int(job.config["dataset"]), error, _level(job))


def _level(job: Job) -> str:
    level: str = job.config.get("level", Level.STANDARD)
    return level
