"""Leases: a place that one process at a time has, on PostgreSQL. Runs in the thread that leads, and behind the fence.

The data base's clock decides when a lease has run out; this machine's own, which goes on while a process is stopped and
while the machine sleeps, decides when its holder must no longer believe in it. The holder's time ends earlier.
"""

import os
import secrets
import socket
import time
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from controlplane.fence import LeaseLostError
from controlplane.models import Lease

LEASE_SECONDS = 6.0
RENEW_SECONDS = 1.5
MARGIN_SECONDS = 0.5
"""So much earlier the holder stops believing: clocks may run at different speeds."""

DISPATCHER = "dispatcher"
CLAIM = "SELECT 1 FROM controlplane_lease WHERE name = %s AND token = %s AND expires_at > clock_timestamp()"


def name_of_this_process() -> str:
    """Host and pid, for people, and something that no other process has."""
    return f"{socket.gethostname()} (pid {os.getpid()}, {secrets.token_hex(4)})"


class Held:
    """A lease that this process took: a fence for those who act by it."""

    def __init__(self, name: str, token: int, until: float) -> None:
        self.name, self.token = name, token
        self._until = until

    def check_clock(self) -> None:
        """Raises LeaseLostError where it has run out by this machine's clock."""
        if _clock() > self._until:
            raise LeaseLostError(f"The lease {self.name!r} ran out: it could not be renewed in time.")

    def check_row(self, raw_connection: Any) -> None:
        """Raises LeaseLostError where it is another's. Inside a transaction, during which nobody takes it."""
        if raw_connection.execute(CLAIM, [self.name, self.token]).fetchone() is None:
            raise LeaseLostError(f"The lease {self.name!r} is another process's now.")

    def renew(self) -> None:
        """Prolongs it. Raises LeaseLostError where it is another's by now, DatabaseError where nobody answers."""
        self.check_clock()
        until = _until()
        mine = Lease.objects.filter(name=self.name, token=self.token, expires_at__gt=Now())
        if not mine.update(expires_at=Now() + timedelta(seconds=LEASE_SECONDS)):
            raise LeaseLostError(f"The lease {self.name!r} is another process's now.")
        self._until = until

    def release(self) -> None:
        """Gives it up, so that another may have it at once."""
        self._until = 0.0
        Lease.objects.filter(name=self.name, token=self.token).update(expires_at=Now())


def take(name: str, holder: str) -> Held | None:
    """The lease, where nobody holds it; None where somebody does."""
    with transaction.atomic():  # one at a time, and none while somebody behind a fence writes
        until = _until()
        row = Lease.objects.filter(name=name, expires_at__lte=Now()).first()
        if row is None:
            if Lease.objects.filter(name=name).exists():
                return None
            row = Lease(name=name, token=0)
        row.token, row.holder = row.token + 1, holder
        row.expires_at = Now() + timedelta(seconds=LEASE_SECONDS)
        row.save()
    return Held(name, row.token, until)


def holder(name: str = DISPATCHER) -> str | None:
    """Who holds it now."""
    row = Lease.objects.filter(name=name, expires_at__gt=Now()).first()
    return row.holder if row is not None else None


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _until() -> float:
    """Asked before the data base is, so that it is earlier than what that writes down."""
    return _clock() + LEASE_SECONDS - MARGIN_SECONDS
