"""Cleaning the home folder; done in the web process. Runs there."""

from typing import Any

from controlplane.kinds.base import JobKind
from controlplane.models import Job
from controlplane.services import cleaning


class CleanKind(JobKind):
    """`config` holds {"actor": who asked}."""

    name = "clean"
    runs_here = True

    def work(self, job: Job) -> dict[str, Any]:
        return cleaning.clean(job.created_by, job_id=job.pk)
