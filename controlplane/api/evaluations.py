"""Evaluations: /api/eval, and those of a run's checkpoints. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.evaluations import (
    Comparison,
    CreateEvaluation,
    EvaluateCheckpoints,
    Evaluation,
    EvaluationList,
    LeaderboardList,
    Promote,
    Promotion,
    PromotionList,
    RunEvaluations,
)
from controlplane.api.schemas.jobs import ModelJob
from controlplane.api.schemas.tables import EvaluationQuery
from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import Evaluation as EvaluationRow
from controlplane.services import (
    datasets,
    evaluations,
    evaluations_compare,
    evaluations_log,
    evaluations_promotion,
    runs,
)
from controlplane.services.tables import evaluations as asked
from controlplane.services.tables import keyset

router = Router(tags=["Evaluations"])


@router.post("/eval/jobs", response={201: ModelJob})
def create(request: ActorRequest, payload: CreateEvaluation) -> Status[dict[str, Any]]:
    """Queues an evaluation: of a model on a dataset, or of a run's checkpoint on what the run holds out."""
    options: dict[str, Any] = {
        "metrics": payload.metrics, "max_samples": payload.max_samples, "max_tokens": payload.max_tokens,
        "pattern": payload.regex, "priority": payload.priority,
    }  # fmt: skip
    if payload.run_id is not None and payload.checkpoint_step is not None:
        _refuse_both(payload)
        run = runs.get(payload.run_id)
        row = evaluations.create_of_checkpoint(request.actor, run, payload.checkpoint_step, **options)
        return Status(201, _queued(row))
    if payload.model_id is None or payload.dataset_ref is None:
        missing = "model_id" if payload.model_id is None else "dataset_ref"
        raise InvalidInputError(
            "Name a model (model_id) and a dataset (dataset_ref), or a checkpoint (run_id and checkpoint_step).",
            (FieldFault(missing, "it is missing"),),
        )
    row = evaluations.create(
        request.actor, model=payload.model_id, dataset=payload.dataset_ref, name=payload.name, rows=payload.rows,
        keep_texts=payload.per_example_logging, **options,
    )  # fmt: skip
    return Status(201, _queued(row))


def _refuse_both(payload: CreateEvaluation) -> None:
    """A checkpoint is asked what its run holds out, under a name of its own, and its texts are kept."""
    own = ("model_id", "dataset_ref", "rows", "name", "per_example_logging")
    given = [name for name in own if name in payload.model_fields_set]
    if given:
        raise InvalidInputError(
            f"A checkpoint is asked the rows that its run holds out: leave {', '.join(given)} out.",
            tuple(FieldFault(name, "not for a checkpoint") for name in given),
        )


def _queued(row: EvaluationRow) -> dict[str, Any]:
    return {
        "job_id": row.job_id, "id": row.pk, "type": "eval", "model_id": row.model_name, "status": row.job.status,
    }  # fmt: skip


@router.get("/eval/jobs", response=EvaluationList)
def list_evaluations(
    request: ActorRequest, query: Annotated[EvaluationQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Evaluations, newest first, or in the order of `sort`, without their examples."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    return {"evaluations": [evaluations.facts(row) for row in found.rows], **found.place}


@router.get("/eval/jobs/{int:job_id}", response=Evaluation)
def get_evaluation(
    request: ActorRequest,
    job_id: int,
    *,
    examples: bool = False,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    search: str = "",
    wrong: bool = False,
) -> dict[str, Any]:
    """One evaluation; with `examples` a page of its log: rows that hold `search`, and only `wrong` ones."""
    row = evaluations.of_job(job_id)
    whole = evaluations.facts(row)
    if examples:
        whole["examples"] = evaluations_log.page(row, offset=offset, limit=limit, search=search, wrong=wrong)
    return whole


@router.delete("/eval/jobs/{int:job_id}", response={204: None})
def delete(request: ActorRequest, job_id: int) -> Status[None]:
    """Takes an evaluation that has ended off the books."""
    evaluations.delete(request.actor, evaluations.of_job(job_id).pk)
    return Status(204, None)


@router.post("/eval/jobs/{int:job_id}/promote", response={201: Promotion})
def promote(request: ActorRequest, job_id: int, payload: Promote | None = None) -> Status[dict[str, Any]]:
    """Activates what was evaluated if it beats the active model on the same rows; else it says why not."""
    wanted = payload or Promote()
    row = evaluations_promotion.promote(
        request.actor, evaluations.of_job(job_id), metric=wanted.metric, confidence=wanted.confidence
    )
    return Status(201, evaluations_promotion.facts(row))


@router.get("/eval/promotions", response=PromotionList)
def list_promotions(request: ActorRequest, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
    """Promotions, newest first."""
    return {"promotions": [evaluations_promotion.facts(row) for row in evaluations_promotion.list_promotions(limit)]}


@router.get("/eval/compare", response=Comparison)
def compare(request: ActorRequest, first: int, second: int, confidence: float = 0.95) -> dict[str, Any]:
    """Two evaluations on the same dataset, by the ids of their jobs: whether their differences are real."""
    pair = evaluations.of_job(first), evaluations.of_job(second)
    return evaluations_compare.facts(*pair, confidence)


@router.get("/eval/leaderboard", response=LeaderboardList)
def leaderboard(request: ActorRequest, dataset: str, metric: str = "accuracy") -> dict[str, Any]:
    """The models that were evaluated on a dataset (an id, or a name for the newest version), the best first."""
    found = datasets.get(dataset)
    tables = [
        {
            "rows": table["rows"], "max_samples": table["take"] or None,
            "entries": [_entry(entry) for entry in table["entries"]],
        }
        for table in evaluations_compare.leaderboards(found, metric)
    ]  # fmt: skip
    return {"dataset": {"id": found.pk, "name": str(found)}, "metric": metric, "tables": tables}


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    row = entry["evaluation"]
    return {
        "rank": entry["rank"], "evaluation_id": row.pk, "model_id": row.model_name, **entry["figure"],
        "note": entry["note"],
    }  # fmt: skip


@router.post("/runs/{int:run_id}/evaluations", response={201: RunEvaluations})
def evaluate_checkpoints(
    request: ActorRequest, run_id: int, payload: EvaluateCheckpoints | None = None
) -> Status[dict[str, Any]]:
    """Queues every checkpoint of a run that isn't evaluated yet, on the rows that the run holds out."""
    options = (payload or EvaluateCheckpoints.model_validate({})).dict()
    made = evaluations.evaluate_checkpoints(request.actor, runs.get(run_id), **options)
    return Status(201, {"evaluations": [evaluations.facts(row) for row in made]})


@router.get("/runs/{int:run_id}/evaluations", response=RunEvaluations)
def list_of_run(request: ActorRequest, run_id: int) -> dict[str, Any]:
    """The newest evaluation of each checkpoint of a run, by step."""
    found = evaluations.of_run(runs.get(run_id))
    return {"evaluations": [evaluations.facts(found[step]) for step in sorted(found)]}
