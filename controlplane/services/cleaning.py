"""Taking away what is of no use to anybody (`cleaning_looks` says what that is). Runs in the web process and in
`manage.py clean`.

A look takes as long as the disk is large, so no request waits for one: a job looks, and what it has found is kept with
its time. Each thing is looked at once more right before it goes.
"""

import gzip
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings as django_settings
from django.db import transaction

from controlplane.errors import ConflictError
from controlplane.models import Job, Upload
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import ENDED, Kind, Status
from controlplane.services import cleaning_looks, jobs
from controlplane.services.access import audit
from controlplane.services.cleaning_looks import Leftover
from controlplane.services.disk_walk import measure
from controlplane.services.home_lock import alone
from controlplane.services.job_progress import JobProgress
from monitoring.files import replacing

SHOWN = 50
"""So many leftovers are told one by one, the largest."""


def plan(now: float | None = None) -> list[Leftover]:
    """What cleaning would take away now, the largest first. Changes nothing."""
    found = cleaning_looks.find(_home(), time.time() if now is None else now)
    return sorted(found, key=lambda leftover: -leftover.bytes)


# --- Asking for it ----------------------------------------------------------------------------------------------------


def queue(actor: Actor) -> Job:
    """Queues a cleaning; the web process does it. Raises ConflictError while one is queued or at work."""
    actor.require(Role.ADMIN)
    if (running := _open("clean")) is not None:
        raise ConflictError(f"Job {running.pk} is cleaning already. Wait for it.")
    return jobs.create(actor, Kind.CLEAN, "Clean the disk", {"action": "clean"})


def queue_look(actor: Actor) -> Job:
    """Queues a look at what would go; returns the one that is queued or at work already where there is one."""
    actor.require(Role.ADMIN)
    return _open("look") or jobs.create(actor, Kind.CLEAN, "Look for what can be cleaned", {"action": "look"})


def _open(action: str) -> Job | None:
    return Job.objects.filter(kind=Kind.CLEAN, config__action=action).exclude(status__in=ENDED).first()


def kept(actor: Actor) -> dict[str, Any]:
    """What the last look has found: {"looked_at", "things", "bytes", "items", "job_id"}, `items` the SHOWN largest.

    `looked_at` is None where nobody has looked yet, or something was cleaned since; `job_id` is the look that is under
    way.
    """
    actor.require(Role.ADMIN)
    running = _open("look")
    value: dict[str, Any] = {"looked_at": None, "things": None, "bytes": None, "items": []}
    done = Job.objects.filter(kind=Kind.CLEAN, status=Status.DONE).order_by("-id").first()
    if done is not None and done.config.get("action") == "look" and done.ended_at is not None:
        value = {"looked_at": done.ended_at.isoformat(), **(done.result or {})}
    return {**value, "job_id": running.pk if running else None}


# --- Doing it ---------------------------------------------------------------------------------------------------------


def look() -> dict[str, Any]:
    """What a look finds, as it is kept."""
    found = plan()
    total = sum(leftover.bytes for leftover in found)
    return {"things": len(found), "bytes": total, "items": [asdict(leftover) for leftover in found[:SHOWN]]}


def clean(by: str, *, job_id: int | None = None) -> dict[str, Any]:
    """Takes away what `plan` finds; returns how many things and bytes went. One at a time in a home, by its lock."""
    with alone("clean.lock", "cleaning"):
        found = plan()
        progress = JobProgress(job_id, sum(leftover.bytes for leftover in found))
        things, freed_bytes, by_kind, failed = 0, 0, dict[str, int](), list[str]()
        for leftover in found:
            progress.add(leftover.bytes, leftover.path)
            if not cleaning_looks.is_still(_home(), time.time(), leftover):
                continue
            try:
                freed = _compress(leftover) if leftover.kind == "log" else _remove(leftover)
            except OSError as error:
                failed.append(f"{leftover.path}: {error.strerror or error}")
                continue
            things += 1
            freed_bytes += freed
            by_kind[leftover.kind] = by_kind.get(leftover.kind, 0) + freed
        result = {"freed_bytes": freed_bytes, "by_kind": by_kind, "things": things, "failed": failed}
        with transaction.atomic():
            audit(Actor(by, Role.ADMIN), "storage.clean", "the home folder", **result)
    return result


def _home() -> Path:
    return Path(django_settings.HOME)


def _remove(leftover: Leftover) -> int:
    """Takes it away; returns its bytes. It leaves its place first, so that nobody meets half of it."""
    path = _home() / leftover.path
    if path.is_dir() and not path.is_symlink():
        aside = _home() / "tmp" / f"clean-{os.getpid()}-{path.name.strip('.')}"
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside)
    else:
        path.unlink()
    if leftover.kind == "upload":
        with suppress(ValueError):
            Upload.objects.filter(pk=UUID(path.name)).delete()
    return leftover.bytes


def _compress(leftover: Leftover) -> int:
    """`log.txt` becomes `log.txt.gz`; returns the bytes saved."""
    path = _home() / leftover.path
    packed = path.with_name(f"{path.name}.gz")
    with path.open("rb") as source, replacing(packed) as target, gzip.open(target, "wb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)
    path.unlink()
    return max(0, leftover.bytes - measure(packed).bytes)
