"""Runs made elsewhere: /api/runs/external with their points and end, and /api/runs/import. Runs in the web process.

Points that a script sends with a key are answered by `api.direct_points` before they come here, with the same words.
"""

from typing import Any

from ninja import Router, Status

from controlplane.api import curves  # one router has all methods of an address
from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.external_runs import CreateExternalRun, FinishRun, ImportRun, PointsStored
from controlplane.api.schemas.runs import Run, RunCreated
from controlplane.services import external_points, external_runs, run_import, runs
from controlplane.services.external_points import Post

router = Router(tags=["Runs"])
POINTS_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": external_points.schema()}}}}


@router.post("/runs/external", response={201: RunCreated})
def create(request: ActorRequest, payload: CreateExternalRun) -> Status[dict[str, Any]]:
    """Begins a run of a script that runs elsewhere: it sends its points, and says when it has ended."""
    run = external_runs.create(request.actor, **payload.dict())
    return Status(201, {"id": run.pk, "job_id": run.job_id, "status": run.job.status})


@router.post("/runs/import", response={201: RunCreated})
def import_files(request: ActorRequest, payload: ImportRun) -> Status[dict[str, Any]]:
    """Makes a run of TensorBoard's event files, each uploaded with the purpose `run`; a job reads them."""
    given = payload.dict()
    ids = [str(upload_id) for upload_id in given.pop("uploads")]
    run = run_import.create(request.actor, upload_ids=ids, **given)
    return Status(201, {"id": run.pk, "job_id": run.job_id, "status": run.job.status})


@curves.router.post("/runs/{int:run_id}/metrics", response=PointsStored, openapi_extra=POINTS_BODY)
def add_points(request: ActorRequest, run_id: int) -> dict[str, Any]:
    """Stores a point, or a batch; they are on the disk when it answers. A batch with a `seq` that was here before is
    answered and not stored twice."""
    batch = external_points.read(request.body)
    return external_points.store_one(Post(request.actor, run_id, batch)).facts()


@router.post("/runs/{int:run_id}/finish", response=Run)
def finish(request: ActorRequest, run_id: int, payload: FinishRun | None = None) -> dict[str, Any]:
    """Says that the script has ended, `done` or `failed`; saying it twice is no fault."""
    asked = payload or FinishRun()
    return runs.facts(external_runs.finish(request.actor, run_id, asked.status, asked.message))
