"""The kinds that there are. Runs in the web process."""

from controlplane.kinds.base import JobKind
from controlplane.kinds.fetch import FetchKind
from controlplane.kinds.serve import ServeKind
from controlplane.kinds.train import TrainKind
from controlplane.kinds.validate import ValidateKind
from controlplane.models import Job

KINDS: dict[str, JobKind] = {kind.name: kind for kind in (TrainKind(), ValidateKind(), FetchKind(), ServeKind())}


def kind_of(job: Job) -> JobKind:
    """The class behind a job's kind."""
    return KINDS[job.kind]
