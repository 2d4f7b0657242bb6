"""What can be said of a run: its progress, checkpoints and figures, as the API and the live topics tell them.

Runs in the web process. Reads only.
"""

import re
from typing import Any, Literal, TypedDict

from controlplane.models import Checkpoint, Job, Run
from controlplane.models.jobs import Kind, Status
from controlplane.moments import iso
from controlplane.services import checkpoints as on_disk
from controlplane.services import energy, jobs


class Progress(TypedDict):
    """How far a run is; None where nobody knows yet."""

    step: int
    total_steps: int | None
    epoch: float | None
    eta_seconds: float | None
    tokens_per_second: float | None


def progress(run: Run) -> Progress:
    """The progress of a run from what it last reported."""
    rate = run.last.get("tokens_per_second")
    return Progress(
        step=run.last_step, total_steps=run.total_steps, epoch=run.epoch, eta_seconds=_eta_seconds(run),
        tokens_per_second=rate if isinstance(rate, (int, float)) else None,
    )  # fmt: skip


def _eta_seconds(run: Run) -> float | None:
    """Steps left times the seconds that a step took lately."""
    if run.seconds_per_step is None or run.total_steps is None:
        return None
    return max(0, run.total_steps - run.last_step) * run.seconds_per_step


def tag_names(run: Run) -> list[str]:
    """The tags of a run, in order; asks nothing where they came along."""
    return [tag.name for tag in run.tags.all()]


def best_step(run: Run) -> int | None:
    """The step of the best checkpoint that is still there: by eval_loss, where none has one by loss."""
    rows = list(run.checkpoints.filter(gone_at=None))
    for name in ("eval_loss", "loss"):
        known = [row for row in rows if getattr(row, name) is not None]
        if known:
            return min(known, key=lambda row: (getattr(row, name), -row.step)).step
    return None


def checkpoint(row: Checkpoint, best: int | None) -> dict[str, Any]:
    """A checkpoint as the API answers it."""
    marks = on_disk.marks(row)
    return {
        "step": row.step, "loss": row.loss, "eval_loss": row.eval_loss, "bytes": row.bytes,
        "created_at": row.created_at.isoformat(), "is_best": row.step == best,
        "is_kept": bool(marks), "is_pinned": on_disk.PIN in marks,
        "coming_from": row.coming_from.name if row.coming_from is not None else None,
    }  # fmt: skip


def checkpoints(run: Run) -> list[dict[str, Any]]:
    """Every checkpoint that is there, in order of step."""
    best = best_step(run)
    return [
        checkpoint(row, best)
        for row in run.checkpoints.filter(gone_at=None).select_related("coming_from").order_by("step")
    ]


def origin(run: Run) -> Literal["training", "script", "files"]:
    """Who made it: Pilothouse, a script that sends its points, or whoever wrote the event files it was read from."""
    if not run.is_external:
        return "training"
    return "files" if run.job.kind == Kind.IMPORT else "script"


def main_key(run: Run) -> str:
    """The metric that is drawn first: `loss`, or of a run that was made elsewhere what comes nearest to it."""
    if "loss" in run.last or not run.is_external:
        return "loss"
    losses = [key for key in run.last if key.lower().endswith("loss")]
    return next(iter(sorted(losses) or sorted(run.last)), "loss")


def status(run: Run) -> dict[str, Any]:
    """The job's facts with the run's progress."""
    job = Job.objects.select_related("host", "run").get(pk=run.job_id)
    return {**jobs.facts(job), "progress": progress(run)}


def facts(run: Run) -> dict[str, Any]:
    """What `GET /api/runs/{id}` answers."""
    job, dataset = run.job, run.dataset
    model = next((model for model in run.models.all() if (model.source, model.state) == ("run", "ready")), None)
    return {
        "id": run.pk, "job_id": job.pk, "name": run.name, "tags": tag_names(run), "group": run.group,
        "notes": run.notes, "edition": run.edition, "status": job.status, "phase": job.phase,
        "desired": job.desired, "waiting_reason": job.waiting_reason if job.status == Status.PENDING else "",
        "origin": origin(run),
        "dataset": dataset and {"id": dataset.pk, "name": dataset.name, "version": dataset.version},
        "model": run.model.name if run.model else None, "chain": run.chain.name if run.chain else None,
        "profile": run.profile, "config": run.own_config if run.is_external else run.config,
        "based_on": run.based_on_id,
        "host": job.host.name if job.host else None, "attempts": job.attempt_count,
        "progress": progress(run), "last": run.last, "result": job.result, "error": job.error,
        "energy": energy.of_run(run), "result_model": model.name if model else None, "created_by": run.created_by,
        "created_at": run.created_at.isoformat(),
        "started_at": iso(job.started_at),
        "ended_at": iso(job.ended_at),
    }  # fmt: skip


def model_name(run: Run) -> str:
    """The name that a run's model gets where nobody chose one: the run's, in characters that a model's may have."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", run.name.lower()).strip("-._")
    return (plain or "run")[:150]
