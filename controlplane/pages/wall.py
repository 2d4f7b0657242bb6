"""The wall: the bridge's instruments, large, for a screen in the corner. Runs in the web process."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from controlplane.models.jobs import Kind, Status
from controlplane.pages.instruments import gpu_cards
from controlplane.pages.topics import mark
from controlplane.services import alerts, deployments, hosts, jobs, runs

RUNS_SHOWN = 4
ALERTS_SHOWN = 4


@never_cache
def wall(request: HttpRequest) -> HttpResponse:
    """The whole screen; only its tiles for htmx."""
    live = mark("jobs", "hosts", "models", "alerts")
    template = "wall/tiles.html" if request.headers.get("HX-Request") else "wall/wall.html"
    return render(request, template, {"live": live, **_tiles()})


def _tiles() -> dict[str, Any]:
    found = hosts.list_hosts()
    cards = gpu_cards(found)
    with_gpu = {card.host.pk for card in cards}
    going = jobs.list_jobs(Kind.TRAIN, Status.RUNNING, RUNS_SHOWN)
    waiting = [job for job in jobs.queue() if job.kind != Kind.SERVE]
    open_alerts = alerts.open_alerts().filter(acknowledged_at=None)
    ended = jobs.list_jobs(Kind.TRAIN, limit=1)
    return {
        "cards": cards, "bare_hosts": [host for host in found if host.pk not in with_gpu],
        "going": [(job.run, runs.facts(job.run)) for job in going], "last": ended[0] if ended and not going else None,
        "waiting": waiting, "active": deployments.active(),
        "open_alerts": open_alerts[:ALERTS_SHOWN], "alert_count": open_alerts.count(),
    }  # fmt: skip
