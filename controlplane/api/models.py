"""Models: /api/models. Runs in the web process. An id may hold slashes, so paths take it whole."""

import asyncio
import time
from typing import Annotated, Any

from asgiref.sync import sync_to_async
from ninja import Query, Router, Status
from ninja.params import functions

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.models import (
    Activate,
    Activation,
    EngineSuggestion,
    Model,
    ModelList,
    RegisterModel,
    ServingOptions,
)
from controlplane.api.schemas.tables import ModelQuery
from controlplane.errors import ConflictError, NotFoundError
from controlplane.models import Deployment
from controlplane.models.access import Role
from controlplane.models.deployments import DeploymentStatus
from controlplane.services import activation, deployments, engine_choice, hosts, models, serving_options
from controlplane.services.tables import keyset
from controlplane.services.tables import models as asked

router = Router(tags=["Models"])
WAIT_SECONDS = 300.0
LOOK_EVERY_SECONDS = 0.25


@router.get("/models", response=ModelList)
def list_models(
    request: ActorRequest, query: Query[ModelQuery], limit: Annotated[int, functions.Query(ge=1, le=500)] = 500
) -> dict[str, Any]:
    """Models, the active one first, or in the order of `sort`; with `family` the versions of one."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    return {"models": [models.facts(model) for model in found.rows], **found.place}


@router.get("/models/active", response=Model)
def get_active(request: ActorRequest) -> dict[str, Any]:
    """The active model; 404 where there is none."""
    model = models.active()
    if model is None:
        raise NotFoundError("No model is active. POST /api/models/set_active with the id of one.")
    return models.facts(model)


@router.post("/models/register", response={201: Model})
def register(request: ActorRequest, payload: RegisterModel) -> Status[dict[str, Any]]:
    """Fetches and checks a model's files by a job; the model is `ready` when they are good."""
    model = models.register(
        request.actor, payload.id, payload.source, path=payload.path, hub_id=payload.hub_id, revision=payload.revision,
        tags=payload.tags,
    )  # fmt: skip
    return Status(201, models.facts(model))


@router.post("/models/set_active", response={200: Activation, 202: Activation})
async def set_active(request: ActorRequest, payload: Activate, wait: bool = True) -> Status[dict[str, Any]]:
    """Starts the model's engine; the old one serves until it is ready. Answers then (at most 300 s, else 202).

    Where memory doesn't allow two engines at once, the old one ends first, and requests wait (`swap`).
    """
    request.actor.require(Role.ADMIN)
    host = await sync_to_async(hosts.get)(payload.host) if payload.host else None
    deployment = await sync_to_async(activation.activate)(request.actor, payload.id, host=host, swap=payload.swap)
    return await _activation(deployment, WAIT_SECONDS if wait else 0.0)


@router.post("/models/reload", response={200: Activation, 202: Activation})
async def reload(request: ActorRequest, wait: bool = False, swap: str = "auto") -> Status[dict[str, Any]]:
    """Restarts the active model's engine; the old one ends when the new one is ready and its requests are done."""
    request.actor.require(Role.ADMIN)
    deployment = await sync_to_async(activation.reload)(request.actor, swap=swap)
    return await _activation(deployment, WAIT_SECONDS if wait else 0.0)


async def _activation(deployment: Deployment, wait_seconds: float) -> Status[dict[str, Any]]:
    """200 once the deployment is active, 202 while it is on its way. Raises ConflictError when it failed."""
    deadline = time.monotonic() + wait_seconds
    while True:
        facts, active = await sync_to_async(_look)(deployment.pk)
        if facts["is_active"] and facts["status"] == DeploymentStatus.READY:
            return Status(200, {"active_model": active, "deployment": deployment.pk, "status": facts["status"]})
        if facts["status"] in (DeploymentStatus.FAILED, DeploymentStatus.STOPPED, DeploymentStatus.DRAINING):
            raise ConflictError(
                f"{facts['model']} could not be activated: "
                + (facts["error"] or "another activation came after it, or its engine was stopped.")
            )
        if time.monotonic() >= deadline:
            return Status(202, {"active_model": active, "deployment": deployment.pk, "status": facts["status"]})
        await asyncio.sleep(LOOK_EVERY_SECONDS)


def _look(deployment_id: int) -> tuple[dict[str, Any], str | None]:
    model = models.active()
    return deployments.facts(deployments.get(deployment_id)), model.name if model else None


@router.get("/models/engine", response=EngineSuggestion)
def suggest_engine(request: ActorRequest, model_id: str) -> dict[str, Any]:
    """Which engine suits a model on the hosts that there are, and why."""
    found = engine_choice.suggest(models.get(model_id))
    return {
        "engine": found.engine if found else None, "gguf": (found.gguf if found else "") or None,
        "why": found.why if found else None,
    }  # fmt: skip


@router.get("/models/{path:model_id}", response=Model)
def get_model(request: ActorRequest, model_id: str) -> dict[str, Any]:
    """One model."""
    return models.facts(models.get(model_id))


@router.patch("/models/{path:model_id}", response=Model)
def set_serving(request: ActorRequest, model_id: str, payload: ServingOptions) -> dict[str, Any]:
    """Changes which engine serves the model with which settings, and when it is loaded and unloaded (admin)."""
    return models.facts(
        serving_options.put(
            request.actor, model_id, load_on_demand=payload.load_on_demand,
            idle_unload_seconds=payload.idle_unload_seconds, engine=payload.engine, gguf=payload.gguf,
            engine_options=payload.engine_options,
        )
    )  # fmt: skip


@router.delete("/models/{path:model_id}", response={204: None})
def delete_model(request: ActorRequest, model_id: str) -> Status[None]:
    """Takes a model and its files away; 409 while it is active or something stands on it."""
    models.delete(request.actor, model_id)
    return Status(204, None)
