"""Sweeps of training runs: /api/run-sweeps. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.run_sweeps import CreateRunSweep, RunSweepList, StopRunSweep, WholeRunSweep
from controlplane.api.schemas.tables import SweepQuery
from controlplane.models import RunSweep
from controlplane.services import run_sweeps
from controlplane.services.tables import keyset
from controlplane.services.tables import sweeps as asked

router = Router(tags=["Sweeps"])


@router.post("/run-sweeps", response={201: WholeRunSweep})
def create(request: ActorRequest, payload: CreateRunSweep) -> Status[dict[str, Any]]:
    """Begins a sweep. A setting that can't be varied so: 422 with its place (`space.0`), and nothing is created."""
    return Status(201, _whole(run_sweeps.create(request.actor, **payload.dict())))


@router.get("/run-sweeps", response=RunSweepList)
def list_sweeps(
    request: ActorRequest, query: Annotated[SweepQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Sweeps, newest first, or in the order of `sort`."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    return {"sweeps": [run_sweeps.facts(sweep) for sweep in found.rows], **found.place}


@router.get("/run-sweeps/{int:sweep_id}", response=WholeRunSweep)
def get_sweep(request: ActorRequest, sweep_id: int) -> dict[str, Any]:
    """One sweep with its trials."""
    return _whole(run_sweeps.get(sweep_id))


@router.post("/run-sweeps/{int:sweep_id}/pause", response=WholeRunSweep)
def pause(request: ActorRequest, sweep_id: int) -> dict[str, Any]:
    """Starts no more runs until it is resumed."""
    return _whole(run_sweeps.pause(request.actor, sweep_id))


@router.post("/run-sweeps/{int:sweep_id}/resume", response=WholeRunSweep)
def resume(request: ActorRequest, sweep_id: int) -> dict[str, Any]:
    """Starts runs again."""
    return _whole(run_sweeps.resume(request.actor, sweep_id))


@router.post("/run-sweeps/{int:sweep_id}/stop", response=WholeRunSweep)
def stop(request: ActorRequest, sweep_id: int, payload: StopRunSweep | None = None) -> dict[str, Any]:
    """Ends it for good; its runs go on (`finish`) or are cancelled (`now`)."""
    return _whole(run_sweeps.stop(request.actor, sweep_id, payload.mode if payload else "finish"))


@router.delete("/run-sweeps/{int:sweep_id}", response={204: None})
def delete_sweep(request: ActorRequest, sweep_id: int) -> Status[None]:
    """Takes a sweep that has ended off the books; its runs stay."""
    run_sweeps.delete(request.actor, sweep_id)
    return Status(204, None)


def _whole(sweep: RunSweep) -> dict[str, Any]:
    return {**run_sweeps.facts(sweep), "trials": run_sweeps.trials(sweep)}
