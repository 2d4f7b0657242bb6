"""Cleaning the home folder, and looking what would go; done in the web process. Runs there."""

from typing import Any

from controlplane.kinds.base import JobKind
from controlplane.models import Job
from controlplane.services import cleaning, storage


class CleanKind(JobKind):
    """`config` holds {"action": "look"}, or {"action": "clean"}: what goes is found when it is done."""

    name = "clean"
    runs_here = True

    def work(self, job: Job) -> dict[str, Any]:
        if job.config["action"] == "look":
            return cleaning.look()
        result = cleaning.clean(job.created_by, job_id=job.pk)
        storage.forget()
        return result
