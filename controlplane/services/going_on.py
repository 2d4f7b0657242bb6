"""Letting a run that has failed or was cancelled go on: from a checkpoint of one's choice, with another learning rate.

Runs in the web process. What came after that checkpoint is given up: its points leave the curve, its checkpoints go.
"""

from typing import Any, TypedDict

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Run
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Status
from controlplane.services import checkpoints as on_disk
from controlplane.services import jobs, run_facts, runs
from controlplane.services.access import audit
from training.config.loader import ConfigError, parse_config

RATE = "hyperparams.learning_rate"
RAN_AWAY = ("loss_not_finite", "loss_diverged")


class Offer(TypedDict):
    """What a run could go on from: the steps, newest first, and what is proposed."""

    steps: list[int]
    step: int
    learning_rate: float
    ran_away: bool


def offer(run: Run) -> Offer | None:
    """What a run could go on from; None where it hasn't failed, or has no checkpoint.

    Where the loss ran away the best checkpoint and half the learning rate are proposed, else the last and the same.
    """
    if run.job.status not in (Status.FAILED, Status.CANCELLED):
        return None
    steps = list(run.checkpoints.filter(gone_at=None).order_by("-step").values_list("step", flat=True))
    if not steps:
        return None
    ran_away = (run.job.error or {}).get("code") in RAN_AWAY
    rate, best = float(run.config["hyperparams"]["learning_rate"]), run_facts.best_step(run) if ran_away else None
    return Offer(
        steps=steps, step=steps[0] if best is None else best,
        learning_rate=float(f"{rate / 2:.3g}") if ran_away else rate, ran_away=ran_away,
    )  # fmt: skip


def go_on(actor: Actor, run_id: int, step: int | None = None, learning_rate: float | None = None) -> Run:
    """Puts the run back into the queue; None: from its last checkpoint, and as it was.

    Raises NotFoundError for a step without a checkpoint, ConflictError for a run that hasn't failed,
    InvalidInputError for a learning rate out of range. Later checkpoints go; ConflictError where one of them is kept.
    """
    actor.require(Role.USE)
    run = runs.get(run_id)
    actor.require_owner(f"Run {run_id}", run.created_by)
    run.require_settings()
    offered = offer(run)
    if offered is None:
        why = (
            "it has no checkpoint: try it again from the start" if run.job.has_ended else "only one that has failed can"
        )
        raise ConflictError(f"Run {run_id} is {run.job.status} and can't go on from a checkpoint; {why}.")
    chosen = offered["steps"][0] if step is None else step
    if chosen not in offered["steps"]:
        there = ", ".join(map(str, offered["steps"]))
        raise NotFoundError(f"Run {run_id} has no checkpoint at step {chosen}. There are: {there}.")
    config = _with_rate(run.config, learning_rate)
    later = run.checkpoints.filter(step__gt=chosen, gone_at=None)
    if kept := [row.step for row in later if on_disk.is_kept(row)]:
        raise ConflictError(
            f"Going on from step {chosen} would take the checkpoint of step {kept[0]} away, which is kept: go on from "
            "there, or unpin it or delete the model that was made of it first."
        )
    with transaction.atomic():
        Run.objects.filter(pk=run.pk).update(config=config)
        for gone in later.values_list("step", flat=True):
            publish(f"run:{run.pk}", "checkpoint", {"step": gone, "gone": True})
        later.update(gone_at=timezone.now())
        audit(actor, "run.go_on", f"run {run.pk}", step=chosen, learning_rate=config["hyperparams"]["learning_rate"])
        jobs.retry(actor, run.job_id)
    return runs.get(run_id)


def _with_rate(config: dict[str, Any], learning_rate: float | None) -> dict[str, Any]:
    if learning_rate is None:
        return config
    changed = {**config, "hyperparams": {**config["hyperparams"], "learning_rate": float(learning_rate)}}
    try:
        parse_config(changed)
    except ConfigError as error:
        message = error.faults[0].message
        raise InvalidInputError(f"learning_rate: {message}", (FieldFault("learning_rate", message),)) from error
    return changed
