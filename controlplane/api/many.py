"""One thing done to many rows of a table: /api/many. Runs in the web process."""

from typing import Any

from ninja import Router

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.tables import Many, ManyOutcome
from controlplane.services import bulk

router = Router(tags=["Tables"])


@router.post("/many/{noun}", response=ManyOutcome)
def many(request: ActorRequest, noun: str, payload: Many) -> dict[str, Any]:
    """Does one thing to up to 500 rows, each by its own permission; what refuses one leaves the others alone.

    `noun`: jobs, datasets, models, evaluations, generations, sweeps, conversations, alerts, inbox,
    power-sweeps or keys. For runs there is
    `/runs/many`.
    """
    found = bulk.do(request.actor, noun, payload.action, [str(row) for row in payload.rows])
    return {"done": found.done, "refused": [{"row": row, "reason": reason} for row, reason in found.refused]}
