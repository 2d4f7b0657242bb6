"""Power of GPUs: profiles, persistence mode, schedules, under /api/settings/power_*. Runs in the web process."""

from typing import Any

from django.conf import settings as django_settings
from ninja import Router, Status

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.power import (
    NewSchedule,
    PersistenceAnswer,
    PersistenceRequest,
    PowerAnswer,
    PowerOverview,
    PowerRequest,
    Schedule,
    ScheduleChanges,
    ScheduleList,
)
from controlplane.errors import FieldFault, InvalidInputError
from controlplane.services import persistence, power, schedules

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


@router.post("/settings/persistence_mode", response={200: PersistenceAnswer, 207: PersistenceAnswer})
def set_persistence(request: ActorRequest, payload: PersistenceRequest) -> Status[dict[str, Any]]:
    """Sets persistence mode (admin); 207 when a GPU refuses (the others are set)."""
    outcomes = persistence.request(request.actor, payload.enabled, host=payload.host, gpu=payload.gpu)
    whole = all(outcome["set"] for outcome in outcomes)
    return Status(200 if whole else 207, {"enabled": payload.enabled, "gpus": outcomes})


# --- Schedules --------------------------------------------------------------------------------------------------------


@router.get("/settings/power_schedules", response=ScheduleList)
def list_schedules(request: ActorRequest) -> dict[str, Any]:
    """When profiles change by themselves."""
    rows = [schedules.facts(row) for row in schedules.list_schedules()]
    return {"time_zone": django_settings.TIME_ZONE, "schedules": rows}


@router.post("/settings/power_schedules", response={201: Schedule})
def create_schedule(request: ActorRequest, payload: NewSchedule) -> Status[dict[str, Any]]:
    """Makes a schedule (admin). Where its window is open now, it holds within half a minute."""
    return Status(201, schedules.facts(schedules.create(request.actor, payload.dict())))


@router.get("/settings/power_schedules/{int:schedule_id}", response=Schedule)
def get_schedule(request: ActorRequest, schedule_id: int) -> dict[str, Any]:
    """One schedule."""
    return schedules.facts(schedules.get(schedule_id))


@router.patch("/settings/power_schedules/{int:schedule_id}", response=Schedule)
def change_schedule(request: ActorRequest, schedule_id: int, payload: ScheduleChanges) -> dict[str, Any]:
    """Changes a schedule, or switches it off or on (admin). `host` null: it is about every GPU from now on."""
    changes = payload.dict(exclude_unset=True)
    return schedules.facts(schedules.update(request.actor, schedule_id, changes))


@router.delete("/settings/power_schedules/{int:schedule_id}", response={204: None})
def delete_schedule(request: ActorRequest, schedule_id: int) -> Status[None]:
    """Forgets a schedule (admin). GPUs keep the profile that they have."""
    schedules.delete(request.actor, schedule_id)
    return Status(204, None)
