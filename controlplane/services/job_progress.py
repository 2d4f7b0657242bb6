"""Progress of a job that the web process does itself, and its being cancelled. Runs in the duty `inner jobs`."""

import time

from django.db import transaction

from controlplane.live.announce import publish
from controlplane.models import Job
from controlplane.models.jobs import Desired

EVERY_SECONDS = 0.5


class JobCancelledError(Exception):
    """Its owner no longer wants it."""


class JobProgress:
    """Tells how far the job is, in bytes, at most twice a second. `add` raises JobCancelledError when it is to end."""

    def __init__(self, job_id: int | None, total: int) -> None:
        self._job_id = job_id
        self._total = total
        self._done = 0
        self._told_at = 0.0

    def add(self, amount: int, note: str = "") -> None:
        """So much more is done. Without a job (a command in a terminal) nobody is told."""
        self._done += amount
        if self._job_id is None or time.monotonic() - self._told_at < EVERY_SECONDS:
            return
        self._told_at = time.monotonic()
        progress = {"done": self._done, "total": self._total, "unit": "bytes", "note": note}
        with transaction.atomic():
            if not Job.objects.filter(pk=self._job_id, desired=Desired.RUN).update(progress=progress):
                raise JobCancelledError
            publish("jobs", "progress", {"id": self._job_id, "progress": progress})
