"""The inbox: where each file stands, and why. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.models import InboxFile
from controlplane.models.jobs import Priority
from controlplane.pages.actors import actor
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.services import inbox
from controlplane.services.tables import inbox as asked


def inbox_list(request: HttpRequest) -> HttpResponse:
    """The files that the address asks for."""
    live = mark("inbox")
    table = shown(request.GET, asked.ask(request.GET), "inbox", placeholder="Search files", first="state")
    rows = [_row(row) for row in table.page.rows]
    context = {"live": live, **inbox.overview(), "table": table, "rows": rows}
    template = "queue/inbox_rows.html" if request.headers.get("HX-Request") else "queue/inbox.html"
    return render(request, template, context)


def _row(row: InboxFile) -> dict[str, Any]:
    return {"file": row, "priority": Priority(row.priority).name.lower()}


@require_POST
def inbox_retry(request: HttpRequest, file_id: int) -> HttpResponse:
    """Tries a file again."""
    row = inbox.retry(actor(request), file_id)
    messages.info(request, f"{row} is tried again.")
    return redirect("inbox")


@require_POST
def inbox_dismiss(request: HttpRequest, file_id: int) -> HttpResponse:
    """Takes a file off the list."""
    inbox.dismiss(actor(request), file_id)
    return redirect("inbox")
