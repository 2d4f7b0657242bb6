"""Keys, settings, deployments, the audit log. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.administration import (
    AddEngine,
    AuditLog,
    CreateKey,
    Deployment,
    DeploymentList,
    Key,
    KeyLimits,
    KeyList,
    NewKey,
    PutSetting,
    Setting,
    SettingList,
)
from controlplane.api.schemas.tables import AuditQuery, KeyQuery
from controlplane.errors import NotFoundError
from controlplane.models import ApiKey
from controlplane.models.access import KeyLimits as Limits
from controlplane.models.access import Role
from controlplane.services import access, activation, deployments, hosts, settings
from controlplane.services.tables import audit as audit_table
from controlplane.services.tables import keys as key_table
from controlplane.services.tables import keyset

router = Router(tags=["Administration"])


# --- Keys -------------------------------------------------------------------------------------------------------------


@router.get("/keys", response=KeyList)
def list_keys(
    request: ActorRequest, query: Annotated[KeyQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 500
) -> dict[str, Any]:
    """Keys, newest first, or in the order of `sort` (admin)."""
    found = keyset.page(keyset.required(key_table.ask(request.actor, request.GET)), limit)
    return {"keys": found.rows, **found.place}


@router.post("/keys", response={201: NewKey})
def create_key(request: ActorRequest, payload: CreateKey) -> Status[dict[str, Any]]:
    """Makes a key (admin). Its text is in this answer and nowhere else."""
    limits = _limits(payload)
    key, plain = access.create_key(request.actor, payload.name, payload.role, payload.expires_at, limits)
    return Status(201, {**Key.from_orm(key).dict(), "key": plain})


@router.put("/keys/{int:key_id}/limits", response=Key)
def set_key_limits(request: ActorRequest, key_id: int, payload: KeyLimits) -> ApiKey:
    """Gives a key other limits, all of them (admin); they hold from its next request on."""
    return access.set_key_limits(request.actor, key_id, _limits(payload))


def _limits(payload: KeyLimits) -> Limits:
    return Limits(payload.requests_per_minute, payload.tokens_per_minute, tuple(payload.models))


@router.delete("/keys/{int:key_id}", response={204: None})
def revoke_key(request: ActorRequest, key_id: int) -> Status[None]:
    """Makes a key useless at once (admin)."""
    access.revoke_key(request.actor, key_id)
    return Status(204, None)


# --- Settings ---------------------------------------------------------------------------------------------------------


def _setting(key: str) -> dict[str, Any]:
    definition = settings.DEFAULTS.get(key)
    if definition is None:
        raise NotFoundError(f"There is no setting {key!r}. GET /api/settings lists them.")
    return {
        "key": key, "value": settings.get(key), "default": definition.default, "description": definition.description,
        "unit": definition.unit, "minimum": definition.minimum, "maximum": definition.maximum,
    }  # fmt: skip


@router.get("/settings", response=SettingList)
def list_settings(request: ActorRequest) -> dict[str, Any]:
    """All settings with defaults and bounds (admin)."""
    request.actor.require(Role.ADMIN)
    return {"settings": [_setting(key) for key in settings.DEFAULTS]}


@router.put("/settings/{key}", response=Setting)
def put_setting(request: ActorRequest, key: str, payload: PutSetting) -> dict[str, Any]:
    """Changes a setting (admin)."""
    settings.put(request.actor, key, payload.value)
    return _setting(key)


# --- Deployments ------------------------------------------------------------------------------------------------------


@router.get("/deployments", response=DeploymentList)
def list_deployments(request: ActorRequest, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
    """Engines, newest first."""
    return {"deployments": [deployments.facts(row) for row in deployments.list_deployments(limit)]}


@router.post("/deployments", response={201: Deployment})
def add_engine(request: ActorRequest, payload: AddEngine) -> Status[dict[str, Any]]:
    """Starts one more engine (admin): a replica of the active model, or another model that is served by its name."""
    host = hosts.get(payload.host) if payload.host else None
    made = activation.add_engine(request.actor, payload.model, payload.adapters, host=host)
    return Status(201, deployments.facts(made))


@router.get("/deployments/history", response=DeploymentList)
def active_history(request: ActorRequest) -> dict[str, Any]:
    """The engines that were active, the last one first."""
    return {"deployments": [deployments.facts(row) for row in activation.history()]}


@router.post("/deployments/rollback", response={202: Deployment})
def roll_back(request: ActorRequest, swap: str = "auto") -> Status[dict[str, Any]]:
    """Activates the model that was active before the present one (admin); follow it by its id."""
    return Status(202, deployments.facts(activation.roll_back(request.actor, swap=swap)))


@router.get("/deployments/{int:deployment_id}", response=Deployment)
def get_deployment(request: ActorRequest, deployment_id: int) -> dict[str, Any]:
    """One engine."""
    return deployments.facts(deployments.get(deployment_id))


@router.post("/deployments/{int:deployment_id}/stop", response=Deployment)
def stop_deployment(request: ActorRequest, deployment_id: int) -> dict[str, Any]:
    """Lets requests in flight end, then ends the engine (admin)."""
    return deployments.facts(activation.stop(request.actor, deployment_id))


# --- The audit log ----------------------------------------------------------------------------------------------------


@router.get("/audit", response=AuditLog)
def list_audit(
    request: ActorRequest, query: Annotated[AuditQuery, Query()], limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Who did what, newest first, or in the order of `sort` (admin)."""
    question = keyset.required(audit_table.ask(request.actor, request.GET))
    found = keyset.page(keyset.older_than(question, query.before_id), limit)
    return {"lines": found.rows, **found.place}
