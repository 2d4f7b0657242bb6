"""Who took how much of which model, how fast it came, and names behind which several models answer. Web process."""

from typing import Annotated, Any

from django.http import HttpResponse
from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.usage import PutSplit, Speed, Split, SplitList, Usage
from controlplane.models.access import Role
from controlplane.services import models, speed, splits, usage

router = Router(tags=["Usage"])
Days = Annotated[int, Query(ge=1, le=usage.LONGEST_DAYS)]


@router.get("/usage", response=Usage)
def list_usage(request: ActorRequest, days: Days = 30, model: str = "", key_id: int | None = None) -> dict[str, Any]:
    """Usage of the last days by day, caller and model (admin)."""
    request.actor.require(Role.ADMIN)
    return {"rows": usage.rows(usage.Question.of_days(days, model, key_id))}


@router.get("/usage.csv", response={200: str}, openapi_extra={"responses": {200: {"content": {"text/csv": {}}}}})
def usage_csv(request: ActorRequest, days: Days = 30, model: str = "", key_id: int | None = None) -> HttpResponse:
    """The same rows as a CSV file (admin)."""
    request.actor.require(Role.ADMIN)
    text = usage.as_csv(usage.Question.of_days(days, model, key_id))
    return HttpResponse(text, content_type="text/csv; charset=utf-8",
                        headers={"Content-Disposition": 'attachment; filename="usage.csv"'})  # fmt: skip


@router.get("/usage/speed", response=Speed)
def model_speed(request: ActorRequest, model: str, hours: Annotated[int, Query(ge=1, le=9600)] = 24) -> dict[str, Any]:
    """Seconds to the first token and tokens a second of a model's answers, over the last hours."""
    return speed.series(models.get(model).name, hours)


@router.get("/splits", response=SplitList)
def list_splits(request: ActorRequest) -> dict[str, Any]:
    """All splits by name."""
    return {"splits": [splits.facts(split) for split in splits.list_splits()]}


@router.put("/splits/{path:name}", response=Split)
def put_split(request: ActorRequest, name: str, payload: PutSplit) -> dict[str, Any]:
    """Makes a split or changes its parts (admin): each request for its name goes to one of its models, by weight."""
    return splits.facts(splits.put(request.actor, name, [part.dict() for part in payload.parts]))


@router.delete("/splits/{path:name}", response={204: None})
def delete_split(request: ActorRequest, name: str) -> Status[None]:
    """Takes the name away; its models stay (admin)."""
    splits.delete(request.actor, name)
    return Status(204, None)
