"""Inference engines. Runs in the web process."""

from typing import Any

from controlplane.errors import ConflictError
from controlplane.kinds.base import JobKind, model_artefact
from controlplane.models import Attempt, Deployment, Job, LanguageModel
from controlplane.models.language_models import ModelState
from controlplane.services import activation, deployments, models, serving_options
from monitoring import events as ev
from monitoring.events import Event, Inputs, JobSpec


class ServeKind(JobKind):
    """One deployment. Its engine becomes ready by event, is checked by the deployments watcher, then routed to.

    Of its job's config `adapters` are the names of models that are served beside it.
    """

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
            config={
                **serving_options.engine_config(model), "model_name": model.name, "profile": model.profile,
                **job.config, **_listening(attempt),
                "adapters": [_beside(model, name) for name in job.config.get("adapters", [])],
            },
        )  # fmt: skip

    def secrets(self, job: Job, attempt: Attempt) -> dict[str, str]:
        return {"engine_token": deployments.engine_token(job.pk, attempt.number)}

    def gpus_wanted(self, job: Job) -> int:
        return 1

    def waits_for(self, job: Job) -> str | None:
        return activation.waits_for(job)

    def on_launch(self, job: Job, attempt: Attempt) -> None:
        activation.launching(job, attempt)

    def on_events(self, job: Job, attempt: Attempt, events: list[Event]) -> None:
        for event in events:
            if isinstance(event.body, ev.Ready):
                activation.engine_ready(job, attempt, event.body.port, event.body.runs_with)

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        activation.ended(job, None)

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        activation.ended(job, None if error["code"] == "cancelled" else error)


def _listening(attempt: Attempt) -> dict[str, str]:
    """Where the engine is to listen, if not on loopback."""
    address = deployments.listens_on(attempt.host)
    return {} if address == deployments.LOOPBACK else {"listen_address": address}


def _beside(base: LanguageModel, name: str) -> dict[str, Any]:
    """An adapter as the engine's config has it. Raises PilothouseError where it isn't one of this model."""
    adapter = models.get(name)
    if adapter.kind != "adapter" or adapter.base_id != base.pk:
        raise ConflictError(f"{name} is no adapter of {base.name}: it can't be served beside it.")
    if adapter.state != ModelState.READY:
        raise ConflictError(f"The adapter {name} is {adapter.state}: only one that is ready can be served.")
    return {"name": adapter.name, "path": str(adapter.folder), "profile": adapter.profile}
