"""Whether a run fits, before it is started: POST /api/runs/estimate. Runs in the web process."""

from typing import Any

from ninja import Router

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.estimates import AskEstimate, Estimate
from controlplane.services import estimates

router = Router(tags=["Runs"])


@router.post("/runs/estimate", response=Estimate)
def estimate(request: ActorRequest, payload: AskEstimate) -> dict[str, Any]:
    """Bytes at the peak against what is free, and the time an earlier run suggests. Creates nothing."""
    return dict(
        estimates.estimate(
            request.actor, dataset=payload.dataset, model=payload.model, profile=payload.profile, config=payload.config
        )
    )
