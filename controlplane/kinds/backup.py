"""Snapshots taken and restored; done in the web process. Runs there."""

from typing import Any

from controlplane.kinds.base import JobKind
from controlplane.models import Job
from controlplane.services import snapshots


class BackupKind(JobKind):
    """`config` holds {"action": "take"}, or {"action": "restore", "snapshot", "item"}."""

    name = "backup"
    runs_here = True

    def work(self, job: Job) -> dict[str, Any]:
        if job.config["action"] == "restore":
            return snapshots.restore(job.config["snapshot"], job.config["item"], job_id=job.pk)
        return snapshots.take(job_id=job.pk)
