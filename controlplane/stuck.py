"""Runs that have stopped reporting. Runs in the dispatcher's thread.

What counts is the machine's own clock without its sleep (`time.monotonic`): a laptop that was closed overnight finds
its run where it left it, not overdue.
"""

import logging
import time

from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError, Wish
from controlplane.fleet.registry import carrier
from controlplane.models import Attempt
from controlplane.models.jobs import STUCK, Desired, Kind, Status

log = logging.getLogger(__name__)


class StuckWatch:
    """Remembers when each run last had news, and kills one that has had none for `stuck_timeout_seconds`."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[int, float]] = {}

    def look(self) -> None:
        """One look at all runs. A killed one is tried again from its last checkpoint, as after any crash."""
        rows = Attempt.objects.filter(launched=True, ended_at=None, job__status=Status.RUNNING, job__kind=Kind.TRAIN)
        present = {row.pk: row for row in rows.select_related("job", "job__run", "host")}
        self._heard = {key: value for key, value in self._heard.items() if key in present}
        for key, attempt in present.items():
            offset, since = self._heard.get(key, (-1, 0.0))
            if offset != attempt.offset or attempt.host.fault or not attempt.host.is_online:
                self._heard[key] = (attempt.offset, time.monotonic())
            elif time.monotonic() - since > _limit_seconds(attempt) and attempt.job.desired == Desired.RUN:
                _kill(attempt, time.monotonic() - since)
                self._heard.pop(key)


def _limit_seconds(attempt: Attempt) -> float:
    return float(attempt.job.run.config["monitoring"]["stuck_timeout_seconds"]) or float("inf")


def _kill(attempt: Attempt, silent_seconds: float) -> None:
    message = (
        f"The run has reported nothing for {silent_seconds:.0f} s (monitoring.stuck_timeout_seconds): it was killed."
    )
    log.warning("job %s attempt %s: %s", attempt.job_id, attempt.number, message)
    error = {
        "code": STUCK,
        "message": message,
        "fix": "It goes on from its last checkpoint; its log may say what it did.",
    }
    Attempt.objects.filter(pk=attempt.pk).update(error=error)
    try:
        carrier(attempt.host).signal(attempt.job_id, attempt.number, Wish.CANCEL)
    except (HostUnreachableError, AgentRefusedError) as fault:
        log.warning("job %s can't be killed yet: %s", attempt.job_id, fault)
