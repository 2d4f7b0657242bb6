"""Jobs, runs, engines, energy and alerts as Prometheus's metrics. Runs in the web process.

A series lives as long as what it tells of: runs and jobs while they run, engines while they are live.
"""

from collections.abc import Iterator
from typing import Any

from django.db.models import Count, Min
from prometheus_client import Metric

from controlplane.models import Alert, Deployment, EnergyAccount, Job, Run
from controlplane.models.alerts import Severity
from controlplane.models.deployments import LIVE, DeploymentStatus
from controlplane.models.jobs import Kind, Status
from controlplane.services.exposition.families import counter, gauge

RUN = ("run", "name", "model")
ENGINE = ("deployment", "model", "host")

RUN_LAST: dict[str, tuple[str, str]] = {
    "loss": ("run_loss", "Training loss that the run reported last."),
    "eval_loss": ("run_eval_loss", "Loss of its last evaluation."),
    "learning_rate": ("run_learning_rate", "Learning rate that it reported last."),
    "grad_norm": ("run_grad_norm", "Norm of the gradients that it reported last."),
    "tokens_per_second": ("run_tokens_per_second", "Tokens that it trains on in a second."),
    "memory_rss_bytes": ("run_resident_memory_bytes", "Memory of its process."),
    "memory_allocated_bytes": ("run_gpu_memory_allocated_bytes", "GPU memory that its tensors take."),
}
"""Keys of `Run.last`."""

RUN_FIELDS: dict[str, tuple[str, str]] = {
    "last_step": ("run_step", "Step that it reported last."),
    "total_steps": ("run_steps_planned", "Steps that it will take."),
    "epoch": ("run_epoch", "Epoch, with its fraction."),
    "seconds_per_step": ("run_step_duration_seconds", "Seconds that a step took lately."),
    "last_time": ("run_last_report_timestamp_seconds", "When it reported last."),
}

ENGINE_COUNTERS: dict[str, tuple[str, str]] = {
    "requests": ("engine_requests", "Requests that the engine accepted."),
    "prompt_tokens": ("engine_prompt_tokens", "Tokens that it read."),
    "tokens": ("engine_generated_tokens", "Tokens that it generated."),
}
ENGINE_GAUGES: dict[str, tuple[str, str, float]] = {
    "running": ("engine_requests_running", "Requests that it works on.", 1),
    "waiting": ("engine_requests_waiting", "Requests that wait in its queue.", 1),
    "tokens_per_second": ("engine_generated_tokens_per_second", "Tokens a second, over ten seconds.", 1),
    "time_to_first_token_ms_mean": ("engine_time_to_first_token_seconds",
                                    "Mean time to the first token since it started.", 0.001),
}  # fmt: skip
"""Keys of `Deployment.statistics`, which are those of the engine's /stats."""


def job_families() -> Iterator[Metric]:
    """How many jobs there are of each kind and status (0 for those that there are none of), and the queue."""
    rows = Job.objects.values("kind", "status").annotate(n=Count("id"))
    counts = {(row["kind"], row["status"]): row["n"] for row in rows}
    pairs = [{"kind": kind, "status": status} for kind in Kind.values for status in Status.values]
    yield gauge("jobs", "Jobs by kind and status.", ("kind", "status"),
                [(pair, counts.get((pair["kind"], pair["status"]), 0)) for pair in pairs])  # fmt: skip
    waiting = Job.objects.filter(status=Status.PENDING)
    yield gauge("queue_length", "Jobs that wait for a place.", (), [({}, waiting.count())])
    oldest = waiting.aggregate(oldest=Min("created_at"))["oldest"]
    yield gauge("queue_oldest_created_timestamp_seconds", "When the oldest waiting job was made; absent without one.",
                (), [({}, oldest and oldest.timestamp())])  # fmt: skip


def run_families() -> Iterator[Metric]:
    """What running runs reported last."""
    rows = list(Run.objects.filter(job__status=Status.RUNNING).select_related("model").order_by("id"))
    labelled = [
        ({"run": str(row.pk), "name": row.name, "model": row.model.name if row.model else ""}, row) for row in rows
    ]
    for key, (name, text) in RUN_LAST.items():
        yield gauge(name, text, RUN, [(labels, row.last.get(key)) for labels, row in labelled])
    for field, (name, text) in RUN_FIELDS.items():
        yield gauge(name, text, RUN, [(labels, getattr(row, field)) for labels, row in labelled])


def engine_families() -> Iterator[Metric]:
    """What live engines said of themselves last."""
    rows = Deployment.objects.filter(status__in=(*LIVE, DeploymentStatus.DRAINING)).select_related("model", "host")
    labelled = [(_engine(row), row) for row in rows.order_by("id")]
    yield gauge("engine_up", "Whether the engine is ready: 1 or 0.", ENGINE,
                [(labels, row.status == DeploymentStatus.READY) for labels, row in labelled])  # fmt: skip
    yield gauge("engine_active", "Whether it answers when nobody names a model: 1 or 0.", ENGINE,
                [(labels, row.is_active) for labels, row in labelled])  # fmt: skip
    for key, (name, text) in ENGINE_COUNTERS.items():
        yield counter(name, text, ENGINE, [(labels, row.statistics.get(key)) for labels, row in labelled])
    for key, (name, text, factor) in ENGINE_GAUGES.items():
        yield gauge(name, text, ENGINE, [(labels, row.statistics.get(key)) for labels, row in labelled], factor)


def _engine(row: Deployment) -> dict[str, str]:
    return {"deployment": str(row.pk), "model": row.model.name, "host": row.host.name if row.host else ""}


def energy_families() -> Iterator[Metric]:
    """What running jobs have drawn so far. Where no power can be read there is no account and no series."""
    rows = EnergyAccount.objects.filter(job__status=Status.RUNNING).select_related("job").order_by("id")
    labelled = [({"job_id": str(row.job_id), "kind": row.job.kind, "uuid": row.gpu_uuid}, row) for row in rows]
    names = ("job_id", "kind", "uuid")  # `job` is what Prometheus calls what it scrapes
    yield counter("job_energy_joules", "Energy that a GPU drew for a running job: the integral of its power draw.",
                  names, [(labels, row.joules) for labels, row in labelled])  # fmt: skip
    yield counter("job_energy_covered_seconds", "Time of a running job for which there are power samples.", names,
                  [(labels, row.covered_seconds) for labels, row in labelled])  # fmt: skip
    yield counter("job_energy_gap_seconds", "Time of a running job for which there are none.", names,
                  [(labels, row.gap_seconds) for labels, row in labelled])  # fmt: skip


def alert_families() -> Iterator[Metric]:
    """Alerts that go on."""
    rows = Alert.objects.filter(ended_at=None).values("severity").annotate(n=Count("id"))
    counts: dict[str, Any] = {row["severity"]: row["n"] for row in rows}
    yield gauge("alerts_open", "Alerts that go on, by severity.", ("severity",),
                [({"severity": word}, counts.get(word, 0)) for word in Severity.values])  # fmt: skip
