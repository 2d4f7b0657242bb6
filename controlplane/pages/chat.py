"""The chat page; chat.js speaks with /v1/chat/completions. Runs in the web process."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.models.deployments import DeploymentStatus
from controlplane.pages.topics import mark
from controlplane.services import deployments, models


def chat(request: HttpRequest) -> HttpResponse:
    """The conversation and what it is held with."""
    live = mark("models")
    rows = [row for row in deployments.list_deployments(50) if row.status == DeploymentStatus.READY]
    names = list(dict.fromkeys(row.model.name for row in sorted(rows, key=lambda row: not row.is_active)))
    starting = [row for row in deployments.list_deployments(10) if row.status in ("starting", "checking")]
    context = {
        "live": live, "names": names, "wanted": request.GET.get("model", ""), "active": deployments.active(),
        "starting": starting[0] if starting else None, "usable": models.list_ready()[:6],
    }  # fmt: skip
    return render(request, "chat/models.html" if request.headers.get("HX-Request") else "chat/chat.html", context)
