"""Generated data: /api/data_gen. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.data_generation import (
    Accepted,
    CheckedExample,
    CheckExample,
    CreateGeneration,
    Decide,
    Decided,
    GeneratedExamples,
    Generation,
    GenerationList,
    MadeDataset,
    MakeDataset,
)
from controlplane.api.schemas.jobs import ModelJob
from controlplane.api.schemas.tables import GenerationQuery
from controlplane.services import data_generation, data_generation_dataset, data_generation_rows
from controlplane.services.tables import generations as asked
from controlplane.services.tables import keyset

router = Router(tags=["Generated data"])


@router.post("/data_gen/jobs", response={201: ModelJob})
def create(request: ActorRequest, payload: CreateGeneration) -> Status[dict[str, Any]]:
    """Queues a generation of data by a model, from seeds; `regime3` makes examples by rule."""
    options = payload.config.dict(exclude={"output_dir", "dataset_ref", "review"})
    seeds = payload.config.dataset_ref
    row = data_generation.create(
        request.actor, strategy=payload.strategy, model=payload.model_id or "", seeds="" if seeds is None else seeds,
        name=payload.config.output_dir, review=payload.config.review, priority=payload.priority, **options,
    )  # fmt: skip
    queued = {"job_id": row.job_id, "id": row.pk, "type": row.job.kind, "status": row.job.status}
    return Status(201, {**queued, "model_id": row.model_name})


@router.get("/data_gen/jobs", response=GenerationList)
def list_generations(
    request: ActorRequest, query: Annotated[GenerationQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Generations, newest first, or in the order of `sort`."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    counted = data_generation.counts(*found.rows)
    return {"generations": [data_generation.facts(row, counted[row.pk]) for row in found.rows], **found.place}


@router.get("/data_gen/jobs/{int:job_id}", response=Generation)
def get(request: ActorRequest, job_id: int) -> dict[str, Any]:
    """One generation: its job, its shards, its rows by state and the dataset that they became."""
    return data_generation.facts(data_generation.of_job(job_id))


@router.delete("/data_gen/jobs/{int:job_id}", response={204: None})
def delete(request: ActorRequest, job_id: int) -> Status[None]:
    """Takes a generation that has ended off the books, with its rows. Its dataset stays."""
    data_generation.delete(request.actor, data_generation.of_job(job_id))
    return Status(204, None)


@router.get("/data_gen/jobs/{int:job_id}/examples", response=GeneratedExamples)
def list_examples(
    request: ActorRequest, job_id: int, state: str = "", after: int = 0,
    limit: Annotated[int, Query(ge=1, le=data_generation_rows.PAGE_LIMIT)] = 50,
) -> dict[str, Any]:  # fmt: skip
    """Rows under review: those of a state where one is named, behind the number `after`."""
    row = data_generation.of_job(job_id)
    return data_generation_rows.page(row, state=state, after=after, limit=limit)


@router.post("/data_gen/jobs/{int:job_id}/examples/check", response=CheckedExample)
def check(request: ActorRequest, job_id: int, payload: CheckExample) -> dict[str, Any]:
    """What the profile finds wrong with a row before it is saved. Changes nothing."""
    row = data_generation.of_job(job_id)
    found = data_generation_rows.faults(row, [turn.dict() for turn in payload.messages])
    return {"faults": found, "may_be_kept": data_generation_rows.may_be_kept(row, found)}


@router.post("/data_gen/jobs/{int:job_id}/examples/accept", response=Accepted)
def accept_pending(request: ActorRequest, job_id: int) -> dict[str, Any]:
    """Accepts every row that nobody has decided about."""
    return {"accepted": data_generation_rows.accept_pending(request.actor, data_generation.of_job(job_id))}


@router.patch("/data_gen/jobs/{int:job_id}/examples/{int:number}", response=Decided)
def decide(request: ActorRequest, job_id: int, number: int, payload: Decide) -> dict[str, Any]:
    """Accepts, rejects or edits a row, or takes that back."""
    row = data_generation.of_job(job_id)
    messages = None if payload.messages is None else [turn.dict() for turn in payload.messages]
    decided = data_generation_rows.decide(request.actor, row, number, state=payload.state, messages=messages)
    return {"row": data_generation_rows.facts(decided), "counts": data_generation.counts(row)[row.pk]}


@router.post("/data_gen/jobs/{int:job_id}/dataset", response={200: MadeDataset, 201: MadeDataset})
def make_dataset(request: ActorRequest, job_id: int, payload: MakeDataset | None = None) -> Status[dict[str, Any]]:
    """Makes a dataset of the accepted rows; 200 with the one that there is where it is made already."""
    asked = payload or MakeDataset.model_validate({})
    dataset, is_new = data_generation_dataset.make(
        request.actor, data_generation.of_job(job_id), name=asked.name, eval_fraction=asked.eval_fraction
    )
    made = {"dataset_id": dataset.pk, "name": dataset.name, "version": dataset.version, "status": dataset.status}
    return Status(201 if is_new else 200, made)
