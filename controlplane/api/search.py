"""GET /api/search: runs, models and datasets by name. Runs in the web process."""

from dataclasses import asdict
from typing import Annotated, Any

from ninja import Router
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.search import SearchAnswer
from controlplane.services import search

router = Router(tags=["Health and facts"])


@router.get("/search", response=SearchAnswer)
def find(request: ActorRequest, q: Annotated[str, Query(max_length=search.LONGEST_QUESTION)]) -> dict[str, Any]:
    """What has every word of `q` in its name: at most six models, runs and datasets each. A number finds rows by it."""
    return {"results": [asdict(hit) for hit in search.find(request.actor, q)]}
