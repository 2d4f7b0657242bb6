"""Data that models generate. Runs in the web process."""

from pathlib import Path

from django.conf import settings

from controlplane.errors import ConflictError
from controlplane.kinds.base import JobKind, model_artefact
from controlplane.models import Attempt, Job
from controlplane.models.generated import Strategy
from controlplane.services import data_generation
from controlplane.services.artefacts import Need, results_need
from monitoring.events import Artefact, Inputs, JobSpec

NICENESS = 5
"""Nobody waits for generated data in a chat."""


class DataGenKind(JobKind):
    """`config` holds {"strategy"}. It writes shards into its job's folder; a duty makes rows or a dataset of them."""

    name = "data_gen"

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        row = data_generation.of_job(job.pk)
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="data_gen", verb="generate_data", host=attempt.host.name,
            gpus=tuple(job.gpus), output_dir=str(Path(settings.HOME) / "jobs" / str(job.pk)),
            inputs=Inputs() if row.strategy == Strategy.REGIME3 else _inputs(job),
            config={
                "serving": {"model_name": row.model_name, "profile": row.profile},
                "environment": {"nice": NICENESS},
                "data_generation": {"strategy": row.strategy, **row.options},
            },
        )  # fmt: skip

    def gpus_wanted(self, job: Job) -> int:
        return 0 if job.config.get("strategy") == Strategy.REGIME3 else 1

    def makes(self, job: Job, attempt: Attempt) -> list[Need]:
        return [results_need(job.pk, f"rows of {job.title}")]

    def on_retry(self, job: Job) -> None:
        data_generation.retried(job)


def _inputs(job: Job) -> Inputs:
    """The model, its base and the seeds. Raises ConflictError when one has gone."""
    row = data_generation.of_job(job.pk)
    if row.model is None:
        raise ConflictError(f"The model {row.model_name} has been deleted: generate with another one.")
    if row.seeds is None:
        raise ConflictError(f"The dataset {row.seeds_name} has been deleted: generate from another one.")
    return Inputs(
        dataset=Artefact(str(row.seeds_id), str(row.seeds.folder), row.seeds.sha256),
        model=model_artefact(row.model), base=model_artefact(row.model.base) if row.model.base else None,
    )  # fmt: skip
