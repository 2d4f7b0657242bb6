"""Runs of scripts that run elsewhere: begun, ended, given up. Their points are `external_points`'. Web process."""

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError
from controlplane.live.announce import publish
from controlplane.models import Run, RunTag
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Kind, Status
from controlplane.services import jobs, run_about, runs, settings
from controlplane.services.access import audit
from controlplane.services.external_points import SILENT

LONGEST_CONFIG = 64 << 10
LONGEST_MESSAGE = 2_000
ENDS = (Status.DONE, Status.FAILED)


def create(
    actor: Actor, *, name: str, config: dict[str, Any] | None = None, tags: Iterable[str] = (), group: str = "",
    notes: str = "", total_steps: int | None = None,
) -> Run:  # fmt: skip
    """Begins a run whose points somebody sends. Raises InvalidInputError with the field at fault."""
    actor.require(Role.USE)
    own_config = _checked(config or {})
    with transaction.atomic():
        run = record(actor, Kind.EXTERNAL, name=name, tags=tags, group=group, notes=notes)
        run.own_config, run.total_steps, run.heard_at = own_config, total_steps, timezone.now()
        run.save(update_fields=["own_config", "total_steps", "heard_at"])
        jobs.transition(run.job_id, Status.RUNNING, reason="its script sends it", actor=actor, phase="active")
    return runs.get(run.pk)


def record(
    actor: Actor, kind: str, *, name: str, tags: Iterable[str] = (), group: str = "", notes: str = "",
    job_config: dict[str, Any] | None = None,
) -> Run:  # fmt: skip
    """The rows of a run that is made elsewhere, with its pending job. Inside a transaction."""
    words = run_about.checked({"name": name, "tags": list(tags), "group": group, "notes": notes})
    job = jobs.create(actor, kind, words["name"], job_config or {})
    run = Run.objects.create(
        name=words["name"], job=job, profile="", group=words["group"], notes=words["notes"], created_by=actor.name
    )
    RunTag.objects.bulk_create([RunTag(run=run, name=tag) for tag in words["tags"]])
    audit(actor, "run.create", f"run {run.pk}", kind=kind)
    return run


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(config))
    if size > LONGEST_CONFIG:
        raise InvalidInputError(
            f"The config has {size:,} characters as JSON; a run's has at most {LONGEST_CONFIG:,}. Leave out what is no "
            "setting.",
            (FieldFault("config", f"at most {LONGEST_CONFIG:,} characters"),),
        )
    return config


def finish(actor: Actor, run_id: int, status: str = Status.DONE, message: str = "") -> Run:
    """Ends a run that a script sends: `done` or `failed`, with a message. The same word again changes nothing."""
    actor.require(Role.USE)
    if status not in ENDS:
        raise InvalidInputError(
            f"A run doesn't finish as {status[:50]!r}: say done or failed.", (FieldFault("status", "done or failed"),)
        )
    with transaction.atomic():
        run = runs.get(run_id)
        actor.require_owner(f"Run {run_id}", run.created_by)
        if run.job.kind != Kind.EXTERNAL:
            raise ConflictError(f"Run {run_id} isn't one that a script sends: it ends by itself, or by its Stop.")
        if run.job.status != status:
            _end(actor, run, status, message.strip()[:LONGEST_MESSAGE])
            publish(f"run:{run_id}", "reset", {})  # points that nobody was told of yet are told of now
    return runs.get(run_id)


def _end(actor: Actor, run: Run, status: str, message: str) -> None:
    if run.job.has_ended:
        raise ConflictError(f"Run {run.pk} has ended already ({run.job.status}) and can't become {status}.")
    if status == Status.DONE:
        result = {"steps": run.last_step, "message": message}
        jobs.transition(run.job_id, status, reason="its script says so", actor=actor, result=result)
        return
    error = {
        "code": "script", "message": message or "Its script says that it has failed.",
        "fix": "The script's own output has more.",
    }  # fmt: skip
    jobs.transition(run.job_id, status, reason=error["message"][:200], actor=actor, error=error)


def give_up_silent() -> int:
    """A duty: runs of which nobody has heard for long have failed; returns how many."""
    hours: float = settings.get("runs.silent_hours")
    before = timezone.now() - timedelta(hours=hours)
    silent = Run.objects.filter(job__kind=Kind.EXTERNAL, job__status=Status.RUNNING, heard_at__lt=before)
    error = {
        "code": SILENT, "message": f"Its script has sent nothing for {hours:g} h.",
        "fix": "See whether it still runs; its next points take the run up again.",
    }  # fmt: skip
    ended = 0
    for job_id in silent.values_list("job_id", flat=True):
        try:
            jobs.transition(job_id, Status.FAILED, reason=error["message"], error=error)
        except ConflictError:
            continue  # it has just ended
        ended += 1
    return ended
