"""The bridge: everything at a glance. Runs in the web process."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.errors import NotFoundError
from controlplane.models import AuditLine
from controlplane.models.jobs import Kind, Status
from controlplane.pages import context
from controlplane.pages.first_steps import card as first_steps
from controlplane.pages.instruments import gpu_cards
from controlplane.pages.lately import sentences
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import alerts, deployments, hosts, jobs, models, run_facts, runs

LATELY_LINES = 8
ALERTS_SHOWN = 3


def bridge(request: HttpRequest) -> HttpResponse:
    """The whole page."""
    live = mark("jobs", "hosts", "models", "datasets", "alerts")
    parts = {**first_steps(request), **_alerts(), **_instruments(), **_running(), **_work(), **_lately()}
    return render(request, "bridge/bridge.html", {"live": live, **parts})


def part(request: HttpRequest, name: str) -> HttpResponse:
    """One part of the page, drawn anew when something was announced."""
    makers = {"instruments": _instruments, "running": _running, "work": _work, "lately": _lately, "alerts": _alerts}
    if name == "start":
        return render(request, "bridge/start.html", first_steps(request))
    if name not in makers:
        raise NotFoundError(f"The bridge has no part {name!r}.")
    shown = row_id(request.GET.get("run", ""))
    if name == "running" and shown is not None:
        run = runs.get(shown)
        return render(request, "bridge/running.html", {"run": run, "facts": runs.facts(run)})
    return render(request, f"bridge/{name}.html", makers[name]())


def navigation(request: HttpRequest) -> HttpResponse:
    """The navigation's lines with their counts, as seen from the page `at`."""
    return render(request, "fragments/places.html", {"places": context.places(request.GET.get("at", "/"))})


def _alerts() -> dict[str, Any]:
    """What goes on that nobody has seen yet, the most urgent first."""
    rows = alerts.open_alerts().filter(acknowledged_at=None)
    count = rows.count()
    return {"alert_strip": rows[:ALERTS_SHOWN], "more_alerts": max(0, count - ALERTS_SHOWN)}


def _instruments() -> dict[str, Any]:
    found = hosts.list_hosts()
    cards = gpu_cards(found)
    with_gpu = {card.host.pk for card in cards}
    return {"hosts": found, "cards": cards, "bare_hosts": [host for host in found if host.pk not in with_gpu]}


def _running() -> dict[str, Any]:
    going = jobs.list_jobs(Kind.TRAIN, Status.RUNNING, 1)
    run = runs.get(going[0].run.pk) if going else None
    if run is None:
        newest = runs.list_runs(limit=1)
        run = newest[0] if newest else None
    return {"run": run, "facts": runs.facts(run) if run else None}


def _work() -> dict[str, Any]:
    going = [job for job in jobs.list_jobs(status=Status.RUNNING, limit=20) if job.kind != Kind.SERVE]
    waiting = [job for job in jobs.queue() if job.kind != Kind.SERVE]
    starting = [row for row in deployments.list_deployments(10) if row.status in ("starting", "checking")]
    return {
        "going": [(job, run_facts.progress(job.run) if job.kind == Kind.TRAIN else None) for job in going],
        "waiting": waiting[:6], "more_waiting": max(0, len(waiting) - 6),
        "active": deployments.active(), "starting": starting[0] if starting else None,
        "ready_model_count": len(models.list_ready()),
    }  # fmt: skip


def _lately() -> dict[str, Any]:
    return {"lately": sentences(AuditLine.objects.all()[: LATELY_LINES * 5])[:LATELY_LINES]}
