"""Settings, Storage: what takes the disk, cleaning it, snapshots and what is in one. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, PilothouseError
from controlplane.models import Job
from controlplane.models.jobs import ENDED, Kind
from controlplane.pages.actors import actor
from controlplane.pages.topics import mark
from controlplane.services import cleaning, settings, snapshots, storage

SHOWN_LARGEST = 20


@never_cache
def overview(request: HttpRequest) -> HttpResponse:
    """The disk, by kind and by thing."""
    live = mark("jobs")
    report = storage.report()
    largest = [{**row, "url": _url(row), "kind": storage.KINDS[row["kind"]]} for row in report["largest"]]
    context = {
        "report": report, "largest": largest[:SHOWN_LARGEST], "live": live,
        "cleaned": _jobs(Kind.CLEAN).filter(config__action="clean").first(),
        "at_work": _jobs(Kind.CLEAN, Kind.BACKUP, at_work=True).first(),
    }  # fmt: skip
    if request.headers.get("HX-Request"):
        return render(request, "settings/storage_body.html", context)
    return render(request, "settings/storage.html", context)


def _jobs(*kinds: str, at_work: bool = False) -> QuerySet[Job]:
    """The newest first; `at_work`: those that have not ended."""
    rows = Job.objects.filter(kind__in=kinds).order_by("-id")
    return rows.exclude(status__in=ENDED) if at_work else rows


def _url(row: dict[str, Any]) -> str:
    """The page where something can be done about it; nothing for what has none."""
    if row["ref"] is None:
        return ""
    names = {"models": "model", "datasets": "dataset", "checkpoints": "run"}
    return reverse(names[row["kind"]], args=[row["ref"]]) if row["kind"] in names else ""


@never_cache
def leftovers(request: HttpRequest) -> HttpResponse:
    """What the last look has found that cleaning would take away."""
    live = mark("jobs")
    found = cleaning.kept(actor(request))
    context = {**found, "live": live, "more": (found["things"] or 0) - len(found["items"])}
    body = "settings/leftovers_body.html" if request.headers.get("HX-Request") else "settings/leftovers.html"
    return render(request, body, context)


@require_POST
def look(request: HttpRequest) -> HttpResponse:
    """Queues a look at what cleaning would take away."""
    cleaning.queue_look(actor(request))
    return redirect("settings-leftovers")


@require_POST
def clean(request: HttpRequest) -> HttpResponse:
    """Queues the cleaning."""
    job = cleaning.queue(actor(request))
    messages.info(request, f"Job {job.pk} cleans the disk.")
    return redirect("settings-storage")


@never_cache
def snapshot_list(request: HttpRequest) -> HttpResponse:
    """The snapshots at the address, or why they can't be listed."""
    rows, fault = [], ""
    try:
        rows = snapshots.list_snapshots()
    except PilothouseError as error:
        fault = "" if isinstance(error, ConflictError) else error.message
    context = {
        "rows": rows, "fault": fault, "snapshot": _jobs(Kind.BACKUP).filter(config__action="take").first(),
        "at_work": _jobs(Kind.BACKUP, at_work=True).first(), "address": settings.get("snapshots.address"),
        "at": settings.get("snapshots.at"), "keep": settings.get("snapshots.keep"),
    }  # fmt: skip
    return render(request, "settings/snapshots.html", context)


@require_POST
def snapshot_take(request: HttpRequest) -> HttpResponse:
    """Queues a snapshot."""
    job = snapshots.queue_take(actor(request))
    messages.info(request, f"Job {job.pk} takes a snapshot.")
    return redirect("settings-snapshots")


@never_cache
def snapshot_page(request: HttpRequest, name: str) -> HttpResponse:
    """One snapshot and what can be restored of it."""
    return render(request, "settings/snapshot.html", {"snapshot": snapshots.facts(snapshots.get(name))})


@require_POST
def snapshot_restore(request: HttpRequest, name: str) -> HttpResponse:
    """Queues the restoring of one item."""
    job = snapshots.queue_restore(actor(request), name, request.POST.get("item", ""))
    messages.info(request, f"Job {job.pk} restores it.")
    return redirect("settings-snapshot", name=name)
