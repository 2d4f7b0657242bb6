"""The doctor: looks at everything that must be so, changes nothing, never hangs.

Runs in commands and in the web process. Every check has a thread and a deadline of its own.
"""

import socket
import time
from pathlib import Path
from typing import Literal

from django.conf import settings
from django.db.utils import DatabaseError

from controlplane.fleet.registry import carrier, local
from controlplane.models import Host
from controlplane.models.access import Actor, Role
from controlplane.services.checks import database, hosts, place, servers, versions
from controlplane.services.checks.finding import Check, Examination, Finding, State

__all__ = ["Finding", "examine", "examine_from_inside", "worst"]
HOSTS_SECONDS = 5.0


def examine(host: str, port: int) -> list[Finding]:
    """Looks at this installation from a process of its own; `host` and `port` are where the server listens or will."""
    home = Path(settings.HOME)
    return _examine([*_checks(home), place.port(home, host, port)])


def examine_from_inside(actor: Actor) -> list[Finding]:
    """The same from within the web process, whose port answers: or who would ask?"""
    actor.require(Role.ADMIN)
    return _examine(_checks(Path(settings.HOME)))


def worst(findings: list[Finding]) -> State:
    """The state of the whole."""
    states = {finding.state for finding in findings}
    ranked: tuple[Literal["fail"], Literal["warn"]] = ("fail", "warn")
    return next((state for state in ranked if state in states), "ok")


def _checks(home: Path) -> list[Check]:
    return [database.check(), servers.check(), place.disk(home), versions.check()]


def _examine(checks: list[Check]) -> list[Finding]:
    """Runs all checks at once; each may take its own time."""
    begun = time.monotonic()
    running = [Examination(check) for check in checks]
    running += [Examination(hosts.check(patient)) for patient in _patients()]
    return [
        finding
        for examination in running
        for finding in examination.findings(begun + examination.check.seconds - time.monotonic())
    ]


def _patients() -> list[hosts.Patient]:
    """Every known host; without one (nothing has run yet, or the data base is sick) this machine."""
    found: list[hosts.Patient] = []

    def look() -> list[Finding]:
        try:
            rows = list(Host.objects.prefetch_related("gpus").order_by("name"))
        except DatabaseError:
            return []  # its own check says why
        for row in rows:
            answers = {gpu.uuid: gpu.power_answer for gpu in row.gpus.all()}
            found.append(hosts.Patient(row.name, carrier(row), row.carrier == "local", answers))
        return []

    Examination(Check("hosts", HOSTS_SECONDS, look)).findings(HOSTS_SECONDS)
    return list(found) or [hosts.Patient(socket.gethostname(), local(), True, {})]
