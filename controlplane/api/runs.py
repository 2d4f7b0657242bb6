"""Training runs: /api/runs. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.models import Model
from controlplane.api.schemas.run_table import ChangeRun, RunQuery
from controlplane.api.schemas.runs import (
    Checkpoint,
    CreateRun,
    GoOn,
    KeepCheckpoint,
    RegisterCheckpoint,
    Run,
    RunCreated,
    RunList,
    StopRun,
)
from controlplane.errors import FieldFault, InvalidInputError
from controlplane.services import checkpoints, going_on, models, run_about, run_facts, run_table, run_templates, runs

router = Router(tags=["Runs"])


@router.post("/runs", response={201: RunCreated})
def create(request: ActorRequest, payload: CreateRun) -> Status[dict[str, Any]]:
    """Queues a run. A config key that is unknown or out of range: 422 with its path, and nothing is created."""
    values = payload.dict(exclude_unset=True)
    template = values.pop("template", None)
    if template is not None:
        run = run_templates.start(request.actor, run_templates.named(template), **values)
    elif payload.dataset is None:
        raise InvalidInputError(
            "A run needs a dataset, or a template that names one.", (FieldFault("dataset", "name one"),)
        )
    else:
        run = runs.create(request.actor, **values)
    return Status(201, {"id": run.pk, "job_id": run.job_id, "status": run.job.status})


@router.get("/runs", response=RunList)
def list_runs(
    request: ActorRequest, asked: Annotated[RunQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Runs, newest first, or in the order of `sort`; `after` asks for the page behind, `before_id` for older ones."""
    found = run_table.listed(request.GET, limit, asked.before_id)
    shown = [runs.facts(run) for run in found.rows]
    return {"runs": shown, **found.place}


@router.get("/runs/{int:run_id}", response=Run)
def get_run(request: ActorRequest, run_id: int) -> dict[str, Any]:
    """One run: status, progress, last values, result or error."""
    return runs.facts(runs.get(run_id))


@router.patch("/runs/{int:run_id}", response=Run)
def change(request: ActorRequest, run_id: int, payload: ChangeRun) -> dict[str, Any]:
    """Changes name, tags, group or notes (who started it, or an admin)."""
    given = payload.dict(exclude_unset=True)
    edition = given.pop("edition", None)
    changes = {name: value for name, value in given.items() if value is not None}
    return runs.facts(run_about.change(request.actor, run_id, changes, edition))


@router.post("/runs/{int:run_id}/stop", response=Run)
def stop(request: ActorRequest, run_id: int, payload: StopRun | None = None) -> dict[str, Any]:
    """Ends a run, with a checkpoint (`save`) or at once (`now`)."""
    return runs.facts(runs.stop(request.actor, run_id, payload.mode if payload else "save"))


@router.post("/runs/{int:run_id}/pause", response=Run)
def pause(request: ActorRequest, run_id: int) -> dict[str, Any]:
    """Writes a checkpoint and frees the GPU."""
    return runs.facts(runs.pause(request.actor, run_id))


@router.post("/runs/{int:run_id}/resume", response=Run)
def resume(request: ActorRequest, run_id: int) -> dict[str, Any]:
    """Goes on from the last checkpoint."""
    return runs.facts(runs.resume(request.actor, run_id))


@router.post("/runs/{int:run_id}/go-on", response=Run)
def go_on(request: ActorRequest, run_id: int, payload: GoOn | None = None) -> dict[str, Any]:
    """Lets a run that has failed or was cancelled go on from a checkpoint, with another learning rate."""
    asked = payload or GoOn()
    return runs.facts(going_on.go_on(request.actor, run_id, asked.step, asked.learning_rate))


@router.get("/runs/{int:run_id}/checkpoints", response=list[Checkpoint])
def list_checkpoints(request: ActorRequest, run_id: int) -> list[dict[str, Any]]:
    """The checkpoints that are on the disk, in order of step."""
    return runs.checkpoints(runs.get(run_id))


@router.post("/runs/{int:run_id}/checkpoints/{int:step}/register", response={201: Model})
def register_checkpoint(
    request: ActorRequest, run_id: int, step: int, payload: RegisterCheckpoint
) -> Status[dict[str, Any]]:
    """Makes a model of a checkpoint by a job; it is `ready` when its files are checked."""
    return Status(201, models.facts(runs.register_checkpoint(request.actor, run_id, step, payload.id)))


@router.post("/runs/{int:run_id}/checkpoints/{int:step}/keep", response=Checkpoint)
def keep_checkpoint(
    request: ActorRequest, run_id: int, step: int, payload: KeepCheckpoint | None = None
) -> dict[str, Any]:
    """Pins a checkpoint, so that retention leaves it alone, or with `keep` false lets it go the way of the others."""
    run = runs.get(run_id)
    row = checkpoints.keep(request.actor, run, step, payload.keep if payload else True)
    return run_facts.checkpoint(row, run_facts.best_step(run))


@router.delete("/runs/{int:run_id}/checkpoints/{int:step}", response={204: None})
def delete_checkpoint(request: ActorRequest, run_id: int, step: int) -> Status[None]:
    """Takes a checkpoint of a run that doesn't work now away; one that is kept, or that a paused run needs, stays."""
    checkpoints.delete(request.actor, runs.get(run_id), step)
    return Status(204, None)


@router.delete("/runs/{int:run_id}", response={204: None})
def delete_run(request: ActorRequest, run_id: int) -> Status[None]:
    """Takes a run that has ended off the books; its models stay."""
    runs.delete(request.actor, run_id)
    return Status(204, None)
