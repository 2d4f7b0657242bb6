"""Power sweeps: /api/power_sweeps. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.power import PowerOutcome
from controlplane.api.schemas.sweeps import StartSweep, Sweep, SweepList
from controlplane.api.schemas.tables import PowerSweepQuery
from controlplane.services import sweeps
from controlplane.services.tables import keyset
from controlplane.services.tables import power_sweeps as asked

router = Router(tags=["Power"])


@router.post("/power_sweeps", response={201: Sweep})
def start(request: ActorRequest, payload: StartSweep) -> Status[dict[str, Any]]:
    """Measures a served model at each power profile (admin); 409 where it isn't served on a GPU whose power is told."""
    sweep = sweeps.start(
        request.actor, payload.model, host=payload.host, gpu=payload.gpu, concurrency=payload.concurrency,
        seconds_per_profile=payload.seconds_per_profile, max_tokens=payload.max_tokens,
    )  # fmt: skip
    return Status(201, sweeps.facts(sweep))


@router.get("/power_sweeps", response=SweepList)
def list_sweeps(
    request: ActorRequest, query: Annotated[PowerSweepQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Sweeps, newest first, or in the order of `sort`."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    return {"sweeps": [sweeps.facts(row) for row in found.rows], **found.place}


@router.get("/power_sweeps/{int:sweep_id}", response=Sweep)
def get_sweep(request: ActorRequest, sweep_id: int) -> dict[str, Any]:
    """One sweep: its figures, what it does now, and what it recommends."""
    return sweeps.facts(sweeps.get(sweep_id))


@router.post("/power_sweeps/{int:sweep_id}/cancel", response=Sweep)
def cancel(request: ActorRequest, sweep_id: int) -> dict[str, Any]:
    """Ends a sweep (admin); the power that the GPU had before is put back."""
    return sweeps.facts(sweeps.cancel(request.actor, sweep_id))


@router.post("/power_sweeps/{int:sweep_id}/use", response={200: PowerOutcome, 207: PowerOutcome})
def use(request: ActorRequest, sweep_id: int) -> Status[dict[str, Any]]:
    """Sets the recommended profile (admin); 207 when the GPU refuses."""
    outcome = sweeps.use(request.actor, sweep_id)
    return Status(200 if outcome["set"] else 207, dict(outcome))
