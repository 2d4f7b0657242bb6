"""Training runs. Runs in the web process."""

from datetime import UTC, datetime
from typing import Any

from django.db.models import Q
from django.utils import timezone

from controlplane.errors import ConflictError
from controlplane.kinds.base import JobKind, model_artefact
from controlplane.live.announce import publish
from controlplane.models import Attempt, Checkpoint, Job, LanguageModel, Run, Sample
from controlplane.models.datasets import DatasetStatus
from controlplane.models.language_models import ModelState
from controlplane.services import (
    arrivals,
    chains,
    curves,
    datasets,
    evaluations_following,
    models,
    queue,
    run_facts,
    run_points,
    versions,
)
from controlplane.services.artefacts import Need, model_need
from controlplane.services.points import Point
from monitoring import events as ev
from monitoring.attempt import RANK_DIED
from monitoring.events import Artefact, Event, Inputs, JobSpec, encode_number


class TrainKind(JobKind):
    """One run: its points become curves, its checkpoints rows, its result a model."""

    name = "train"
    lane = "train"

    def spec(self, job: Job, attempt: Attempt) -> JobSpec:
        run = Run.objects.select_related("dataset", "model", "model__base").get(job=job)
        dataset, model = run.training_set, run.start_model
        chains.check_launch(run)
        if dataset.status != DatasetStatus.READY:
            raise ConflictError(f"The dataset {dataset} is {dataset.status}, not ready.")
        if model.state != ModelState.READY:
            raise ConflictError(f"The model {model.name} is {model.state}, not ready.")
        return JobSpec(
            job_id=job.pk, attempt=attempt.number, kind="train", verb="train", host=attempt.host.name,
            gpus=tuple(job.gpus), output_dir=str(run.folder), config=self._config(run),
            inputs=Inputs(
                dataset=Artefact(str(dataset.pk), str(dataset.folder), dataset.sha256),
                model=model_artefact(model),
                base=model_artefact(model.base) if model.base else None,
                resume_from=self._resume_from(run, attempt),
            ),
            model_dir=str(result_model(run).folder),
        )  # fmt: skip

    def _config(self, run: Run) -> dict[str, Any]:
        """The run's config with the evaluation set's id replaced by the name of its folder."""
        data = dict(run.config["data"])
        if data["eval_dataset"]:
            data["eval_dataset"] = datasets.get(data["eval_dataset"]).sha256
        return {**run.config, "data": data}

    def _resume_from(self, run: Run, attempt: Attempt) -> Artefact | None:
        there = Q(coming_from=None) | Q(coming_from=attempt.host)  # what lies on a lost host alone can't be had
        last = run.checkpoints.filter(there, gone_at=None).order_by("-step").first()
        if last is None or attempt.number == 1:
            return None
        return Artefact(f"{run.pk}/{last.step}", str(run.folder / last.path), last.manifest_sha256)

    def held(self) -> str | None:
        return queue.waits_for()

    def waits_for(self, job: Job) -> str | None:
        again = arrivals.waits_for_checkpoint(job.run) if job.attempt_count else None
        return self.held() or chains.waits_for(job.run) or again

    def environment(self, job: Job) -> dict[str, Any]:
        return _environment(job)

    def gpus_wanted(self, job: Job) -> int:
        return int(_environment(job).get("gpus") or 1)

    def may_share_processor(self, job: Job) -> bool:
        return bool(_environment(job).get("distributed", "none") != "none")

    def on_launch(self, job: Job, attempt: Attempt) -> None:
        run = chains.resolve(Run.objects.select_related("chain__base", "chain__current").get(job=job))
        Run.objects.filter(pk=run.pk).update(last_time=None)
        result_model(run)

    def on_events(self, job: Job, attempt: Attempt, events: list[Event]) -> None:
        run = Run.objects.get(job=job)
        fresh: dict[str, list[Point]] = {}
        for event in events:
            match event.body:
                case ev.Metrics() as metrics:
                    _collect(run, metrics, event.time, fresh)
                case ev.Resumed(step=step):
                    self._store(run, fresh)
                    fresh = {}
                    arrivals.gone_back(run, step, attempt.host)
                    self._rewind(run, step, event.time)
                case ev.Progress() as progress if progress.unit == "steps":
                    run.total_steps = int(progress.total) if progress.total else run.total_steps
                    run_points.reach(run, int(progress.done), event.time)
                case ev.Checkpoint() as checkpoint:
                    row = _store_checkpoint(run, checkpoint, event.time)
                    if not arrivals.checkpoint_written(run, row, attempt.host):
                        evaluations_following.checkpoint_came(run, checkpoint.step)
                    _tell_checkpoint(run, row)
                case ev.CheckpointGone(step=step) if not arrivals.checkpoint_gone(run, step, attempt.host):
                    run.checkpoints.filter(step=step).update(gone_at=timezone.now())
                    publish(f"run:{run.pk}", "checkpoint", {"step": step, "gone": True})
                case ev.Sample() as sample:
                    _store_sample(run, sample, event.time)
                case _:
                    pass
        if fresh or any(isinstance(event.body, ev.Progress) for event in events):
            self._store(run, fresh)

    def _rewind(self, run: Run, step: int, time: float) -> None:
        changed = run_points.rewind(run, step, time)
        stale = run.checkpoints.filter(step__gt=step, gone_at=None)
        said, _ = run.samples.filter(step__gt=step).delete()
        if stale.update(gone_at=timezone.now()) or changed or said:
            publish(f"run:{run.pk}", "reset", {})

    def _store(self, run: Run, fresh: dict[str, list[Point]]) -> None:
        run_points.keep(run, fresh)
        run_points.tell(run, fresh)

    def makes(self, job: Job, attempt: Attempt) -> list[Need]:
        described = (attempt.result or {}).get("model")
        return [model_need(result_model(Run.objects.get(job=job)))] if described else []

    def on_done(self, job: Job, attempt: Attempt, result: dict[str, Any]) -> None:
        run = Run.objects.get(job=job)
        model = result_model(run)
        described = result.get("model")
        if not described:
            model.delete()
            return
        LanguageModel.objects.filter(pk=model.pk).update(
            checkpoint_step=result.get("steps"), profile={**model.profile, **result.get("profile", {})}
        )
        models.fetched(str(model.uuid), described)
        chains.advance(run)
        publish(f"run:{run.pk}", "status", {**run_facts.status(run), "model": model.name})

    def may_retry(self, error: ev.Error | None) -> bool:
        return super().may_retry(error) or (error is not None and error.code == RANK_DIED)

    def is_held(self, error: dict[str, Any]) -> bool:
        return bool(error["code"] == "disk_full")

    def on_failed(self, job: Job, error: dict[str, str]) -> None:
        """The place of the model that never came is freed; checkpoints stay."""
        LanguageModel.objects.filter(run__job=job, source="run").exclude(state=ModelState.READY).delete()


def _environment(job: Job) -> dict[str, Any]:
    """What the run asks of its host. Asked for every waiting run each second: the queue brings `job.run` along."""
    section: dict[str, Any] = job.run.config.get("environment", {})
    return section


def result_model(run: Run) -> LanguageModel:
    """The row of the model that a run makes; made at its first attempt, so that every attempt writes to one place."""
    existing = LanguageModel.objects.filter(run=run, source="run").first()
    if existing:
        return existing
    wanted = run.config.get("output", {}).get("register_as") or run_facts.model_name(run)
    start = run.start_model
    place = versions.next_place(wanted if versions.may_follow(wanted) else f"{wanted}-{run.pk}")
    return LanguageModel.objects.create(
        name=place.name, family=place.family, version=place.version, source="run", run=run, dataset=run.dataset,
        base=(start.base or start) if run.config.get("model", {}).get("merge_adapter") is False else None,
        profile=models.trained_with(run), created_by=run.created_by, tags=["trained"],
    )  # fmt: skip


def _collect(run: Run, metrics: ev.Metrics, time: float, fresh: dict[str, list[Point]]) -> None:
    run_points.reach(run, metrics.step, time)
    for name, value in metrics.values.items():
        key = curves.stored_key(name)
        fresh.setdefault(key, []).append((metrics.step, value, time))
        run.last[key] = encode_number(value)
    run.epoch = metrics.epoch if metrics.epoch is not None else run.epoch


def _store_checkpoint(run: Run, event: ev.Checkpoint, time: float) -> Checkpoint:
    row, _ = Checkpoint.objects.update_or_create(
        run=run, step=event.step,
        defaults={
            "path": event.path, "bytes": event.bytes,
            "loss": _finite(event.loss), "eval_loss": _finite(event.eval_loss),
            "manifest_sha256": event.manifest_sha256, "created_at": datetime.fromtimestamp(time, UTC), "gone_at": None,
            "coming_from": None,
        },
    )  # fmt: skip
    return row


def _tell_checkpoint(run: Run, row: Checkpoint) -> None:
    row.refresh_from_db()
    publish(f"run:{run.pk}", "checkpoint", run_facts.checkpoint(row, run_facts.best_step(run)))


def _finite(value: float | None) -> float | None:
    return value if value is not None and isinstance(encode_number(value), float) else None


def _store_sample(run: Run, event: ev.Sample, time: float) -> None:
    Sample.objects.create(
        run=run, step=event.step, prompt=event.prompt, text=event.text, time=datetime.fromtimestamp(time, UTC)
    )
    publish(f"run:{run.pk}", "sample", {"step": event.step, "prompt": event.prompt, "text": event.text})
