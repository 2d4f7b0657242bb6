"""Chains of runs: /api/chains. Runs in the web process."""

from typing import Any

from ninja import Router, Status

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.queue import Chain, ChainList
from controlplane.services import chains

router = Router(tags=["Runs"])


@router.get("/chains", response=ChainList)
def list_chains(request: ActorRequest) -> dict[str, Any]:
    """All chains, by name."""
    return {"chains": chains.list_facts()}


@router.get("/chains/{str:name}", response=Chain)
def get_chain(request: ActorRequest, name: str) -> dict[str, Any]:
    """One chain: its base, its current model, its runs."""
    return chains.facts(chains.get(name))


@router.post("/chains/{str:name}/reset", response=Chain)
def reset(request: ActorRequest, name: str) -> dict[str, Any]:
    """Begins it anew at its base; the models that it made stay. 409 while a run of it is under way."""
    return chains.facts(chains.reset(request.actor, name))


@router.delete("/chains/{str:name}", response={204: None})
def delete_chain(request: ActorRequest, name: str) -> Status[None]:
    """Forgets it; its runs and models stay. 409 while a run of it waits or is under way."""
    chains.remove(request.actor, name)
    return Status(204, None)
