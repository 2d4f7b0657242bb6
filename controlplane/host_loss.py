"""Hosts that don't answer for longer than the grace time: their jobs are marked lost and, where that is wished, go on
elsewhere. Runs in the dispatcher's thread.

Time is this machine's monotonic clock: neither a host's clock nor a jump of our own counts, nor the time in which this
process didn't look (it was stopped, or the machine slept), nor that in which it had no way to the fleet itself.
"""

import logging
import time
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from controlplane.fleet.registry import bridge
from controlplane.models import Attempt, Host
from controlplane.models.access import SYSTEM
from controlplane.models.hosts import OnLoss
from controlplane.models.jobs import Desired, Status
from controlplane.services import artefacts, ingest, jobs, settings
from controlplane.services.access import audit

log = logging.getLogger(__name__)
LONGEST_GAP_SECONDS = 10.0
LOST = "lost"


class LossWatch:
    """Remembers since when each host has been silent."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[datetime | None, float]] = {}
        self._looked_at = time.monotonic()

    def look(self) -> None:
        """One look at all hosts."""
        now = time.monotonic()
        if now - self._looked_at > LONGEST_GAP_SECONDS:
            self._heard.clear()
        self._looked_at = now
        grace = settings.get("fleet.lost_after_seconds")
        for host in Host.objects.all():
            silent = self._silent_seconds(host, now)
            if silent is None and host.lost_at is not None:
                welcome(host)
            elif silent is not None and silent > grace:
                lose(host, silent)

    def _silent_seconds(self, host: Host, now: float) -> float | None:
        """For how long it has not been heard, as far as this process could have; None: it was, since the last look."""
        known = self._heard.get(host.pk)
        if known is not None and known[0] == host.last_seen_at and not _is_cut_off(host):
            return now - known[1]
        self._heard[host.pk] = (host.last_seen_at, now)
        return 0.0 if known is None or known[0] == host.last_seen_at else None


def _is_cut_off(host: Host) -> bool:
    """Whether it is this process that has no way to the fleet."""
    way = bridge() if host.carrier == "ray" else None
    return way is not None and not way.is_up


def lose(host: Host, silent_seconds: float) -> None:
    """Marks the host's jobs lost, and lets those go on elsewhere that are to and can."""
    if host.lost_at is None:
        with transaction.atomic():
            Host.objects.filter(pk=host.pk, lost_at=None).update(lost_at=timezone.now())
            audit(SYSTEM, "host.lost", host.name, silent_seconds=round(silent_seconds))
        log.warning("%s has been silent for %.0f s: its jobs are lost until it answers", host.name, silent_seconds)
    for attempt in _running_on(host):
        with transaction.atomic():
            jobs.set_phase(attempt.job_id, LOST)
        if resumes_elsewhere(attempt):
            ingest.lose(attempt, f"{host.name} has not answered for {silent_seconds:.0f} s.")


def welcome(host: Host) -> None:
    """It answers again: what still runs there is on the books as before, what was given up is ended by the poll."""
    with transaction.atomic():
        Host.objects.filter(pk=host.pk).update(lost_at=None)
        audit(SYSTEM, "host.return", host.name)
        for attempt in _running_on(host).filter(job__phase=LOST):
            jobs.set_phase(attempt.job_id, "active")
    log.info("%s answers again", host.name)


def resumes_elsewhere(attempt: Attempt) -> bool:
    """Whether a lost attempt's job is taken from its host.

    Never where others see its folders (two hosts share its home, or it sees the library): there the old process, if it
    lives, would write into the new one's.
    Nor one that its owner has asked to end or that is bound to this host: it waits, and the wish with it.
    """
    host, job = attempt.host, attempt.job
    if job.desired != Desired.RUN or job.is_pinned:
        return False
    if host.home_id and Host.objects.filter(home_id=host.home_id).exclude(pk=host.pk).exists():
        return False
    if not artefacts.is_apart(host):
        return False
    return (host.on_loss or settings.get("fleet.on_host_loss")) == OnLoss.RESUME


def _running_on(host: Host) -> QuerySet[Attempt]:
    rows = Attempt.objects.filter(host=host, ended_at=None, job__status=Status.RUNNING)
    return rows.select_related("job", "host")
