"""Runs that ended before the disk was full go on when there is room again. A duty of the web process.

A training process looks at the disk itself (`training.callbacks.checkpoints`): when room runs short it ends with the
fault `disk_full`, which says how many bytes must be free, and its job is paused.
"""

import shutil
from pathlib import Path

from django.conf import settings as django_settings

from controlplane.errors import ConflictError
from controlplane.models import Job
from controlplane.models.jobs import Desired, Kind, Status
from controlplane.services import jobs, settings

DISK_FULL = "disk_full"


def look() -> list[int]:
    """Queues every run that waits for room and has it now; returns their jobs, oldest first.

    One at a time: what the first takes is seen before the next is asked about.
    """
    if not settings.get("storage.resume_when_room"):
        return []
    free_bytes = shutil.disk_usage(Path(django_settings.HOME)).free
    waiting = Job.objects.filter(kind=Kind.TRAIN, status=Status.PAUSED, desired=Desired.RUN, error__code=DISK_FULL)
    for job in waiting.order_by("id"):
        needed_bytes = (job.error or {}).get("needed_bytes")
        if needed_bytes is None or free_bytes < needed_bytes:
            continue
        try:
            jobs.transition(
                job.pk, Status.PENDING, reason=f"the disk has room again ({free_bytes / 1e9:.2f} GB)", error=None,
                not_before=None,
            )  # fmt: skip
        except ConflictError:
            continue  # somebody was faster
        return [job.pk]
    return []
