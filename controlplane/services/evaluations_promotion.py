"""Promote when better: a model or checkpoint is activated only if it beats the active model, with a confidence.

Runs in the web process; `work` is a duty. Nothing is kept between two looks at the data base: a restart in the middle
goes on where it was.
"""

import logging
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, PilothouseError
from controlplane.live.announce import publish
from controlplane.models import Evaluation, LanguageModel, Promotion
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.evaluations import PromotionState
from controlplane.models.jobs import Status
from controlplane.models.language_models import ModelState
from controlplane.services import activation, evaluations, evaluations_compare, models, run_facts, runs
from controlplane.services.access import audit
from controlplane.services.evaluations_compare import CONFIDENCES, WORDS

log = logging.getLogger(__name__)
OPEN = (PromotionState.EVALUATING, PromotionState.REGISTERING)
FAILED = (Status.FAILED, Status.CANCELLED)
MIN_ROWS = 20
"""On fewer common rows nothing is activated, whatever a test says: they are hardly a picture of all there are."""


# --- Asked for and read -----------------------------------------------------------------------------------------------


def promote(actor: Actor, row: Evaluation, *, metric: str = "accuracy", confidence: float = 0.95) -> Promotion:
    """Begins a promotion of what was evaluated: the active model is asked the same rows where it hasn't been.

    Raises ConflictError where there is nothing to beat or it is on its way already, InvalidInputError.
    """
    actor.require(Role.ADMIN)
    active = _checked(row, metric, confidence)
    with transaction.atomic():
        champion = _known(row, active, metric) or evaluations.create_like(actor, row, active)
        made = Promotion.objects.create(
            candidate=row, champion=champion, metric=metric, confidence=confidence, created_by=actor.name
        )
        audit(actor, "promotion.create", row.model_name, against=active.name, metric=metric, confidence=confidence)
        _announce(made)
    return made


def _checked(row: Evaluation, metric: str, confidence: float) -> LanguageModel:
    """The active model, which is to be beaten. Raises ConflictError, InvalidInputError."""
    if metric not in evaluations.measured(row):
        raise _refused("metric", f"Evaluation {row.pk} has not measured {metric}: choose one that it has.")
    if not CONFIDENCES[0] <= confidence <= CONFIDENCES[1]:
        raise _refused("confidence", f"The confidence must lie between {CONFIDENCES[0]} and {CONFIDENCES[1]}.")
    if row.job.status in FAILED:
        raise ConflictError(f"Evaluation {row.pk} is {row.job.status}: try it again first.")
    if row.dataset is None:
        raise ConflictError(f"The dataset {row.dataset_name} has been deleted: evaluate on another one.")
    active = models.active()
    if active is None:
        raise ConflictError("No model is active, so there is none to beat: activate this one.")
    if row.model_id == active.pk:
        raise ConflictError(f"{active.name} is active already.")
    if Promotion.objects.filter(candidate=row, state__in=OPEN).exists():
        raise ConflictError(f"{row.model_name} is on its way already: its promotion is being worked on.")
    return active


def _refused(path: str, message: str) -> InvalidInputError:
    return InvalidInputError(message, (FieldFault(path, message),))


def _known(row: Evaluation, active: LanguageModel, metric: str) -> Evaluation | None:
    """The newest evaluation of the active model by which the two can be compared."""
    for other in evaluations.list_evaluations(500, dataset=row.dataset, model=active):
        same = other.same_rows == row.same_rows and other.max_tokens == row.max_tokens and other.pattern == row.pattern
        if same and metric in evaluations.measured(other) and other.job.status not in FAILED:
            return other
    return None


def list_promotions(limit: int = 50, *, candidate: Evaluation | None = None) -> list[Promotion]:
    """Promotions, newest first; those of one evaluation where named."""
    rows = Promotion.objects.select_related("candidate", "champion", "model")
    rows = rows.filter(candidate=candidate) if candidate is not None else rows
    return list(rows[: max(1, min(limit, 500))])


def facts(row: Promotion) -> dict[str, Any]:
    """A promotion as the API and the live topic tell it."""
    return {
        "id": row.pk, "state": row.state, "sentence": row.sentence, "metric": row.metric,
        "confidence": row.confidence, "candidate": row.candidate.model_name, "champion": row.champion.model_name,
        "candidate_job_id": row.candidate.job_id, "champion_job_id": row.champion.job_id,
        "model_id": row.model.name if row.model is not None else None, "created_by": row.created_by,
        "created_at": row.created_at.isoformat(), "ended_at": row.ended_at.isoformat() if row.ended_at else None,
    }  # fmt: skip


def _announce(row: Promotion) -> None:
    publish("models", "promotion", facts(row))


# --- Worked on --------------------------------------------------------------------------------------------------------


def work() -> None:
    """The duty."""
    for row in Promotion.objects.filter(state__in=OPEN).select_related(
        "candidate__job", "candidate__run", "candidate__model", "champion__job", "champion__model", "model"
    ):
        try:
            _evaluated(row) if row.state == PromotionState.EVALUATING else _registered(row)
        except PilothouseError as error:
            _end(row, PromotionState.FAILED, error.message)
        except Exception:  # one promotion's trouble is not the others': it is looked at again in the next round
            log.exception("promotion %s can't be carried on", row.pk)


def _evaluated(row: Promotion) -> None:
    """Compares, once both are done."""
    for side in (row.candidate, row.champion):
        if side.job.status in FAILED:
            _end(row, PromotionState.FAILED, f"The evaluation of {side.model_name} is {side.job.status}.")
            return
    if row.candidate.job.status != Status.DONE or row.champion.job.status != Status.DONE:
        return
    metric = "loss" if row.metric == "perplexity" else row.metric
    compared = evaluations_compare.compare(row.candidate, row.champion, row.confidence)
    found = next((item for item in compared if item.metric == metric), None)
    if found is None:
        _end(row, PromotionState.FAILED, f"The two can't be compared by {WORDS[row.metric]}.")
    elif found.difference is not None and found.difference.rows < MIN_ROWS:
        few = f"A promotion needs at least {MIN_ROWS} rows that both have: here there are {found.difference.rows}."
        _end(row, PromotionState.REFUSED, f"{found.sentence} {few}")
    elif not (found.is_real and found.first_is_better):
        _end(row, PromotionState.REFUSED, found.sentence)
    else:
        _go_on(row, found.sentence)


def _go_on(row: Promotion, sentence: str) -> None:
    """It is better: a checkpoint is made a model of first."""
    with transaction.atomic():
        model = _model_of(row)
        claimed = Promotion.objects.filter(pk=row.pk, state=PromotionState.EVALUATING)
        if claimed.update(state=PromotionState.REGISTERING, sentence=sentence, model=model):
            row.refresh_from_db()
            _announce(row)
    if row.state == PromotionState.REGISTERING:
        _registered(row)


def _model_of(row: Promotion) -> LanguageModel:
    """The model that is to be activated. Raises ConflictError, NotFoundError when it has gone."""
    candidate = row.candidate
    if not candidate.is_of_checkpoint:
        if candidate.model is None:
            raise ConflictError(f"The model {candidate.model_name} has been deleted: evaluate another one.")
        return candidate.model
    run, step = candidate.run, candidate.checkpoint_step
    if run is None or step is None:
        raise ConflictError(f"The run of {candidate.model_name} has been deleted.")
    made = run.models.filter(checkpoint_step=step).exclude(state=ModelState.FAILED).first()
    if made is not None:
        return made
    wanted = f"{run_facts.model_name(run)}-step-{step}"
    taken = LanguageModel.objects.filter(name=wanted).exists()
    return runs.register_checkpoint(SYSTEM, run.pk, step, f"{wanted}-{row.pk}" if taken else wanted)


def _registered(row: Promotion) -> None:
    """Activates, once the model is there and nobody has activated another one meanwhile."""
    if row.model is None:
        _end(
            row, PromotionState.FAILED, f"The model {row.candidate.model_name} has been deleted: evaluate another one."
        )
        return
    if row.model.state == ModelState.FAILED:
        _end(row, PromotionState.FAILED, f"{row.model.name} could not be made: {row.model.error}")
        return
    if row.model.state != ModelState.READY:
        return
    active = models.active()
    if active is None or active.pk != row.champion.model_id:
        now = active.name if active is not None else "none"
        message = f"{row.champion.model_name} is no longer the active model ({now} is): promote it again."
        _end(row, PromotionState.FAILED, f"{row.sentence} {message}")
        return
    with transaction.atomic():
        if _end(row, PromotionState.ACTIVATED, row.sentence):
            activation.activate(SYSTEM, row.model.name)


def _end(row: Promotion, state: str, sentence: str) -> bool:
    """Says how it came out, once."""
    with transaction.atomic():
        still = Promotion.objects.filter(pk=row.pk, state__in=OPEN)
        if not still.update(state=state, sentence=sentence, ended_at=timezone.now()):
            return False
        row.refresh_from_db()
        audit(SYSTEM, f"promotion.{state}", row.candidate.model_name, sentence=sentence, asked_by=row.created_by)
        _announce(row)
    return True
