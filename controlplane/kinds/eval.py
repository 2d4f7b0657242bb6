"""Evaluations of models and checkpoints. Runs in the web process."""

from pathlib import Path
from typing import Any

from django.conf import settings

from controlplane.errors import ConflictError
from controlplane.kinds.base import JobKind, model_artefact
from controlplane.models import Attempt, Evaluation, Job
from controlplane.services import checkpoints, evaluations, models
from controlplane.services.artefacts import Need, results_need
from monitoring.events import Artefact, Inputs, JobSpec

NICENESS = 5
"""Nobody waits for an evaluation in a chat."""


class EvalKind(JobKind):
    """One evaluation. Its rows are logged in the attempt's folder; its result holds the figures."""

    name = "eval"

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        row = evaluations.of_job(job.pk)
        if row.dataset is None:
            raise ConflictError(f"The dataset {row.dataset_name} has been deleted: evaluate on another one.")
        model, base, profile = _subject(row)
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="eval", verb="evaluate", host=attempt.host.name,
            gpus=tuple(job.gpus), output_dir=str(Path(settings.HOME) / "jobs" / str(job.pk)),
            inputs=Inputs(
                dataset=Artefact(str(row.dataset_id), str(row.dataset.folder), row.dataset.sha256),
                model=model, base=base,
            ),
            config={
                "serving": {"model_name": row.model_name, "profile": profile},
                "environment": {"nice": NICENESS},
                "evaluation": {
                    "metrics": row.metrics, "take": row.take, "seed": row.seed, "max_tokens": row.max_tokens,
                    "pattern": row.pattern, "keep_texts": row.keep_texts,
                },
            },
        )  # fmt: skip

    def gpus_wanted(self, job: Job) -> int:
        return 1

    def makes(self, job: Job, attempt: Attempt) -> list[Need]:
        return [results_need(job.pk, f"rows of {job.title}")]

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        evaluations.done(job)

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        evaluations.failed(job)

    def on_retry(self, job: Job) -> None:
        evaluations.retried(job)


def _subject(row: Evaluation) -> tuple[Artefact, Artefact | None, dict[str, Any]]:
    """What is evaluated, on which base, in which profile. Raises ConflictError, NotFoundError when it has gone."""
    if row.is_of_checkpoint:
        if row.run is None or row.checkpoint_step is None:
            raise ConflictError(f"The run of {row.model_name} has been deleted.")
        checkpoint = checkpoints.get(row.run, row.checkpoint_step)
        start = row.run.start_model
        artefact = Artefact(row.model_name, str(checkpoints.folder_of(checkpoint)), checkpoint.manifest_sha256)
        return artefact, model_artefact(start.base or start), models.trained_with(row.run)
    if row.model is None:
        raise ConflictError(f"The model {row.model_name} has been deleted: evaluate another one.")
    base = model_artefact(row.model.base) if row.model.base else None
    return model_artefact(row.model), base, row.model.profile
