"""Many runs: one thing done to all, saved views, comparison. Runs in the web process."""

from typing import Any

from django.http import HttpResponse
from ninja import Query, Router, Status
from pydantic_core import to_json

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.run_table import (
    ComparedCurves,
    Comparison,
    ManyRuns,
    ManyRunsOutcome,
    SaveView,
    ShareView,
    View,
    ViewList,
    WhichRuns,
)
from controlplane.models import RunView
from controlplane.services import run_bulk, run_compare, run_views

router = Router(tags=["Runs"])


@router.post("/runs/many", response=ManyRunsOutcome)
def many(request: ActorRequest, payload: ManyRuns) -> dict[str, Any]:
    """Does one thing to many runs, each by its own permission; what refuses one leaves the others alone."""
    outcome = run_bulk.do(request.actor, payload.action, payload.runs, payload.text)
    return {"done": outcome.done, "refused": [{"run": run, "reason": why} for run, why in outcome.refused]}


# --- Saved views ------------------------------------------------------------------------------------------------------


def _view(row: RunView) -> dict[str, Any]:
    return {
        "id": row.pk, "name": row.name, "query": row.query,
        "is_shared": row.is_shared, "created_by": row.created_by, "created_at": row.created_at.isoformat(),
    }  # fmt: skip


@router.get("/run-views", response=ViewList)
def list_views(request: ActorRequest) -> dict[str, Any]:
    """One's own saved views of the table of runs, and those that are shared."""
    return {"views": [_view(row) for row in run_views.list_views(request.actor)]}


@router.post("/run-views", response={201: View})
def save_view(request: ActorRequest, payload: SaveView) -> Status[dict[str, Any]]:
    """Saves filters, columns and an order under a name; one's own view of that name is replaced."""
    return Status(201, _view(run_views.save(request.actor, payload.name, payload.query)))


@router.patch("/run-views/{int:view_id}", response=View)
def share_view(request: ActorRequest, view_id: int, payload: ShareView) -> dict[str, Any]:
    """Shares a view with everybody, or no longer (an admin)."""
    return _view(run_views.share(request.actor, view_id, payload.is_shared))


@router.delete("/run-views/{int:view_id}", response={204: None})
def delete_view(request: ActorRequest, view_id: int) -> Status[None]:
    """Forgets a view."""
    run_views.remove(request.actor, view_id)
    return Status(204, None)


# --- Comparison -------------------------------------------------------------------------------------------------------


@router.get("/runs/compare", response=Comparison)
def compare(request: ActorRequest, which: Query[WhichRuns]) -> dict[str, Any]:
    """The settings that differ between 2 to 20 runs, and their last values."""
    compared = run_compare.required(request.actor, request.GET)
    return {
        "runs": [{"id": run.pk, "name": run.name, "status": run.job.status} for run in compared],
        "settings": [
            {"path": row.field.path, "title": row.field.title, "unit": row.field.unit, "values": row.values}
            for row in run_compare.settings(compared)
            if row.differs
        ],
        "metrics": [
            {"key": row.key, "values": row.values, "best": [compared[place].pk for place in sorted(row.best)]}
            for row in run_compare.metrics(compared)
        ],
    }


@router.get("/runs/compare/metrics", response=ComparedCurves)
def compare_metrics(request: ActorRequest, which: Query[WhichRuns], key: str, max_points: int = 2000) -> HttpResponse:
    """The curve of one metric in each run, thinned to `max_points` each."""
    compared = run_compare.required(request.actor, request.GET)
    found = {"key": key, "series": run_compare.curves(compared, key, max_points)}
    return HttpResponse(to_json(found), content_type="application/json; charset=utf-8")
