"""The curves of a run: /api/runs/ID/metrics. Runs in the web process.

Curves are written by a fast encoder and not checked against the schema once more: they are numbers by the thousand.
"""

from typing import Annotated, Any

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router
from ninja.params.functions import Query
from pydantic_core import to_json

from controlplane.api.downloads import written
from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.curves import MetricKeys, Metrics, MetricSpan
from controlplane.services import curve_export, curve_reading, runs

router = Router(tags=["Runs"])
Keys = Annotated[list[str] | None, Query(alias="keys")]  # Ninja stumbles over a parameter called keys
FILE = {"responses": {200: {"description": "The file."}}}


@router.get("/runs/{int:run_id}/metrics", response=Metrics)
def get_metrics(
    request: ActorRequest, run_id: int, span: Annotated[MetricSpan, Query()], wanted: Keys = None
) -> HttpResponse:
    """Curves, thinned to `max_points` each: all of a run, or those behind `after_step`, or from `from_step` to
    `to_step`. `keys`: comma-separated, or repeated; all without it."""
    found = curve_reading.answer(runs.get(run_id), wanted, span.after, span.to_step, span.max_points)
    return HttpResponse(to_json(found), content_type="application/json; charset=utf-8")


@router.get("/runs/{int:run_id}/metrics/keys", response=MetricKeys)
def get_metric_keys(request: ActorRequest, run_id: int) -> dict[str, Any]:
    """Which curves a run has, with how many points, and between which values; where it was resumed."""
    return curve_reading.outline(runs.get(run_id))


@router.get("/runs/{int:run_id}/metrics.csv", openapi_extra=FILE)
def get_metrics_csv(request: ActorRequest, run_id: int, wanted: Keys = None) -> StreamingHttpResponse:
    """Every point as CSV: key, step, value, time (Unix seconds). `keys` as above."""
    run = runs.get(run_id)
    pieces = curve_export.csv_pieces(run, curve_reading.wanted(run, wanted))
    return written(pieces, f"run-{run_id}.csv", "text/csv; charset=utf-8")


@router.get("/runs/{int:run_id}/metrics.tfevents", openapi_extra=FILE)
def get_metrics_events(request: ActorRequest, run_id: int, wanted: Keys = None) -> StreamingHttpResponse:
    """Every point as an event file of TensorBoard: put it into a folder of its own and point TensorBoard there."""
    run = runs.get(run_id)
    pieces = curve_export.event_pieces(run, curve_reading.wanted(run, wanted))
    began = int(run.created_at.timestamp())
    return written(pieces, f"events.out.tfevents.{began}.run-{run_id}", "application/octet-stream")
