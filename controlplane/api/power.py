"""Power profiles: /api/settings/power_profile. Runs in the web process."""

from typing import Any

from ninja import Router, Status

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.power import PowerAnswer, PowerOverview, PowerRequest
from controlplane.errors import FieldFault, InvalidInputError
from controlplane.services import power

router = Router(tags=["Power"])


@router.get("/settings/power_profile", response=PowerOverview)
def get_power(request: ActorRequest, host: str | None = None, gpu: int | None = None) -> dict[str, Any]:
    """What the profiles mean, and per GPU what was asked, what is in force and what is allowed."""
    return power.overview(host, gpu)


@router.post("/settings/power_profile", response={200: PowerAnswer, 207: PowerAnswer})
def set_power(
    request: ActorRequest,
    *,
    profile: str | None = None,
    host: str | None = None,
    gpu: int | None = None,
    strict: bool | None = None,
    payload: PowerRequest | None = None,
) -> Status[dict[str, Any]]:
    """Sets a profile, given in the query or in a JSON body; 207 when a GPU refuses (the others are set)."""
    said = payload or PowerRequest()
    chosen = profile or said.profile
    if not chosen:
        raise InvalidInputError(
            "Say which profile: quiet, normal or max.", (FieldFault("profile", "quiet, normal or max"),)
        )
    outcomes = power.request(
        request.actor, chosen, host=host if host is not None else said.host, gpu=gpu if gpu is not None else said.gpu,
        strict=bool(strict if strict is not None else said.strict),
    )  # fmt: skip
    whole = all(outcome["set"] for outcome in outcomes)
    return Status(200 if whole else 207, {"profile": chosen, "gpus": outcomes})
