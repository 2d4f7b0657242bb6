"""Inference engines. Runs in the web process."""

from typing import Any

from controlplane.kinds.base import JobKind, model_artefact
from controlplane.models import Attempt, Deployment, Job
from controlplane.services import deployments
from monitoring import events as ev
from monitoring.events import Event, Inputs, JobSpec


class ServeKind(JobKind):
    """One deployment. Its engine becomes ready by event, is checked by the deployments watcher, then routed to."""

    name = "serve"
    lane = "serve"
    lasting = True

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        deployment = Deployment.objects.select_related("model", "model__base").get(job=job)
        model = deployment.model
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="serve", verb="serve", host=attempt.host.name,
            gpus=tuple(job.gpus), output_dir=str(model.folder),
            inputs=Inputs(model=model_artefact(model), base=model_artefact(model.base) if model.base else None),
            config={"engine": "transformers", "model_name": model.name, "profile": model.profile, **job.config},
        )  # fmt: skip

    def secrets(self, job: Job, attempt: Attempt) -> dict[str, str]:
        return {"engine_token": deployments.engine_token(job.pk, attempt.number)}

    def gpus_wanted(self, job: Job) -> int:
        return 1

    def on_launch(self, job: Job, attempt: Attempt) -> None:
        deployments.launching(job, attempt)

    def on_events(self, job: Job, attempt: Attempt, events: list[Event]) -> None:
        for event in events:
            if isinstance(event.body, ev.Ready):
                deployments.engine_ready(job, attempt, event.body.port)

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        deployments.ended(job, None)

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        deployments.ended(job, None if error["code"] == "cancelled" else error)
