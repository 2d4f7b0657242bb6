"""What a host holds of the library, and what is on its way: shown, cleared, cancelled. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import PilothouseError
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.models import Host
from controlplane.pages.actors import actor
from controlplane.pages.topics import mark
from controlplane.services import artefacts, copies, hosts, shared_files, transfers

SHOWN_ENDED = 5


def files(request: HttpRequest, name: str) -> HttpResponse:
    """The card "Files here", drawn anew while something is on its way."""
    return render(request, "hosts/files.html", {"live": mark("hosts"), **context(hosts.get(name))})


def context(host: Host) -> dict[str, Any]:
    """What the card shows."""
    rows, moving = copies.of_host(host), transfers.of_host(host)
    ended = [row for row in moving if not row.is_live][:SHOWN_ENDED]
    return {
        "host": host, "is_apart": artefacts.is_apart(host), "is_library": artefacts.is_library(host),
        "library": artefacts.home(), "copies": rows, "held_bytes": sum(one.row.bytes for one in rows),
        "limit_bytes": copies.limit_bytes(), "can_clear": any(not one.in_use for one in rows),
        "moving": [{"row": row, "sentence": transfers.sentence(row)} for row in moving if row.is_live], "ended": ended,
    }  # fmt: skip


@require_POST
def clear(request: HttpRequest, name: str) -> HttpResponse:
    """Takes away the copies that no job works with."""
    try:
        freed = copies.clear(actor(request), hosts.get(name))
    except HostUnreachableError:
        messages.error(request, f"{name} doesn't answer: its copies can't be cleared now.")
    else:
        messages.success(request, f"{freed / 1e9:.2f} GB were freed on {name}.")
    return redirect("host", name=name)


@require_POST
def share(request: HttpRequest, name: str) -> HttpResponse:
    """Declares a file system that the control plane and the host share."""
    try:
        host = shared_files.declare(
            actor(request), name, request.POST.get("here", ""), request.POST.get("there", "")
        )  # fmt: skip
    except PilothouseError as error:
        messages.error(request, error.message)
    else:
        said = "reads the library through the shared files" if host.shared_files else "shares no files"
        messages.success(request, f"{name} {said} from now on.")
    return redirect("host", name=name)


@require_POST
def cancel(request: HttpRequest, transfer_id: int) -> HttpResponse:
    """Ends a transfer."""
    row = transfers.cancel(actor(request), transfer_id)
    messages.success(request, f"Copying {row.title} was cancelled.")
    return redirect("host", name=row.host.name)
