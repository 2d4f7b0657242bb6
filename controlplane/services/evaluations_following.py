"""Checkpoints that are evaluated as they come, where their run's config says so. Runs in the web process."""

import logging
from contextlib import suppress

from django.db import transaction

from controlplane.errors import NotFoundError, PilothouseError
from controlplane.models import Evaluation, Run
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import ENDED
from controlplane.services import checkpoints, evaluations

MAX_SAMPLES = 200
"""Rows of each: enough for a curve, and soon over."""

MOST_WAITING = 8
"""A checkpoint stays until it is evaluated: where so many of a run wait already, the next ones go their usual way."""

logger = logging.getLogger(__name__)


def checkpoint_came(run: Run, step: int) -> Evaluation | None:
    """Queues the evaluation of a checkpoint that has just been written (called inside the ingest transaction).

    Where that can't be, the run goes on all the same, and the log says why.
    """
    if not run.config["monitoring"].get("evaluate_checkpoints"):
        return None
    try:
        checkpoint = checkpoints.get(run, step)
        if evaluations.is_of_these_weights(evaluations.of_run(run).get(step), checkpoint):
            return None  # the run was set back and has come here again
        waiting = Evaluation.objects.filter(run=run, checkpoint_step__isnull=False).exclude(job__status__in=ENDED)
        if waiting.count() >= MOST_WAITING:
            logger.info("the checkpoint of step %d of run %d isn't evaluated: %d wait", step, run.pk, MOST_WAITING)
            return None
        with transaction.atomic():
            actor = Actor(run.created_by, Role.USE)
            made = evaluations.queue_checkpoint(actor, run, step, max_samples=MAX_SAMPLES)
    except PilothouseError as error:
        logger.warning("the checkpoint of step %d of run %d isn't evaluated: %s", step, run.pk, error.message)
        return None
    transaction.on_commit(lambda: _keep(made))
    return made


def _keep(made: Evaluation) -> None:
    with suppress(NotFoundError):  # it has gone at once: the evaluation says so when its turn comes
        evaluations.keep_checkpoint(made)
