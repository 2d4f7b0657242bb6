"""The kinds that there are. Runs in the web process."""

from typing import Any

from controlplane.kinds.backup import BackupKind
from controlplane.kinds.base import JobKind
from controlplane.kinds.clean import CleanKind
from controlplane.kinds.data_gen import DataGenKind
from controlplane.kinds.eval import EvalKind
from controlplane.kinds.external import ExternalKind
from controlplane.kinds.fetch import FetchKind
from controlplane.kinds.generate import GenerateKind
from controlplane.kinds.import_files import ImportKind
from controlplane.kinds.serve import ServeKind
from controlplane.kinds.train import TrainKind
from controlplane.kinds.validate import ValidateKind
from controlplane.models import Job
from controlplane.services import jobs

KINDS: dict[str, JobKind] = {
    kind.name: kind
    for kind in (
        TrainKind(),
        ValidateKind(),
        FetchKind(),
        ServeKind(),
        EvalKind(),
        DataGenKind(),
        GenerateKind(),
        ExternalKind(),
        ImportKind(),
        BackupKind(),
        CleanKind(),
    )
}


CANCELLED = {"code": "cancelled", "message": "It was cancelled before it ran.", "fix": "Try it again from the queue."}


def connect() -> None:
    """Lets the kinds hear what happens to jobs that no process works on. Called once, when the app is ready."""
    jobs.never_ran.connect(_never_ran, dispatch_uid="kinds.never_ran")
    jobs.retried.connect(_retried, dispatch_uid="kinds.retried")


def _never_ran(job: Job, **_more: Any) -> None:
    kind_of(job).on_failed(job, CANCELLED)


def _retried(job: Job, **_more: Any) -> None:
    kind_of(job).on_retry(job)


def kind_of(job: Job) -> JobKind:
    """The class behind a job's kind."""
    return KINDS[job.kind]
