"""Cleaning the home folder; done in the web process. Runs there."""

from typing import Any

from controlplane.kinds.base import JobKind
from controlplane.models import Job
from controlplane.services import cleaning, storage


class CleanKind(JobKind):
    """`config` is empty: what goes is found when it is done."""

    name = "clean"
    runs_here = True

    def work(self, job: Job) -> dict[str, Any]:
        result = cleaning.clean(job.created_by, job_id=job.pk)
        storage.forget()
        return result
