"""Alerts of training runs: finished, failed, a loss that is no number. Runs in the web process.

They are fired inside the transaction that stores what happened, so each is there once, whatever is killed when.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from controlplane.models import Alert, Job, Run
from controlplane.models.alerts import Severity
from controlplane.models.jobs import Kind, Status
from controlplane.services import alerts, jobs

log = logging.getLogger(__name__)


def connect() -> None:
    """Hears of every job that changes its status. Called once, when the app is ready."""
    jobs.moved.connect(_moved, dispatch_uid="alerts.moved")


def _moved(job: Job, before: str, **_more: Any) -> None:
    """A fault here must not undo the change that it hears of."""
    if job.kind not in (Kind.TRAIN, Kind.EXTERNAL):
        return
    try:
        with transaction.atomic():
            _tell(job, before)
    except Exception:  # the dispatcher must live, and the job has moved in any case
        log.exception("job %s: no alert could be made of its becoming %s", job.pk, job.status)


def _tell(job: Job, before: str) -> None:
    run = Run.objects.filter(job=job).first()
    if run is None:
        return
    if job.status == Status.DONE:
        alerts.fire("run_finished", subject(run), Severity.INFO, _finished(run), url=_url(run))
    elif job.status == Status.FAILED:
        error = job.error or {}
        message = f"Run {run.pk} “{run.name}” has failed: {error.get('message') or 'it did not say why.'}"
        alerts.fire("run_failed", subject(run), Severity.WARNING, message, fix=error.get("fix", ""), url=_url(run))
    elif job.status == Status.PENDING and before != Status.PENDING:
        for rule in ("run_failed", "loss_nan"):
            alerts.end(rule, subject(run))


def _finished(run: Run) -> str:
    loss = run.last.get("loss")
    words = f" with a loss of {loss:.4g}" if isinstance(loss, (int, float)) else ""
    return f"Run {run.pk} “{run.name}” is done after {run.last_step} steps{words}."


def look_at_points(run: Run, fresh: Mapping[str, Sequence[tuple[int, float, float]]]) -> None:
    """Fires where a loss among new points (key → (step, value, time)) is no number: once an attempt."""
    for key, points in fresh.items():
        if not key.endswith("loss"):
            continue
        for step, value, _time in points:
            if not math.isfinite(value):
                _lost(run, key, step, value)
                return


def _lost(run: Run, key: str, step: int, value: float) -> None:
    said = Alert.objects.filter(rule="loss_nan", subject=subject(run))
    if run.job.started_at is not None:
        said = said.filter(created_at__gte=run.job.started_at)
    if said.exists():
        return
    word = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    alerts.fire(
        "loss_nan", subject(run), Severity.WARNING,
        f"Run {run.pk} “{run.name}”: {key} is {word} at step {step}.",
        fix="Stop it. A smaller learning_rate, a longer warmup_ratio or precision bf16 instead of fp16 often mends it.",
        url=_url(run),
    )  # fmt: skip


def end_of_deleted_runs() -> None:
    """What is open about runs that have been deleted is over."""
    rows = Alert.objects.filter(rule__in=("run_failed", "loss_nan"), ended_at=None)
    known = {f"run {pk}" for pk in Run.objects.values_list("pk", flat=True)} if rows.exists() else set()
    for alert in rows:
        if alert.subject not in known:
            alerts.end(alert.rule, alert.subject)


def subject(run: Run) -> str:
    """What alerts call a run."""
    return f"run {run.pk}"


def _url(run: Run) -> str:
    return f"/runs/{run.pk}/"
