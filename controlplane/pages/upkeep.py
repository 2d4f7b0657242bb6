"""What an admin does with a host: opens it, drains it, maintains it, says what it is for. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError
from controlplane.models import Host
from controlplane.models.hosts import HostRole, OnLoss, Upkeep
from controlplane.pages.actors import actor
from controlplane.services import host_settings, hosts, upkeep
from controlplane.services.power_profiles import label

STATES = ((Upkeep.OPEN, "Open"), (Upkeep.DRAINING, "Drain"), (Upkeep.MAINTENANCE, "Maintenance"))

ON_LOSS = (("", "As the settings say"), (OnLoss.WAIT, "Jobs wait for it"), (OnLoss.RESUME, "Jobs go on elsewhere"))


def card(request: HttpRequest, name: str) -> HttpResponse:
    """The card "Work", drawn anew when a state changes."""
    return render(request, "hosts/upkeep.html", context(hosts.get(name)))


def context(host: Host) -> dict[str, Any]:
    """What the card shows."""
    left = upkeep.still_here(host) if host.state != Upkeep.OPEN else []
    cards = [{"gpu": gpu, "words": upkeep.words(gpu)} for gpu in hosts.gpus_of(host)]
    return {
        "host": host, "states": STATES, "roles": HostRole.choices, "on_loss": ON_LOSS, "words": upkeep.words(host),
        "left": left, "gpu_states": cards,
    }  # fmt: skip


@require_POST
def set_host(request: HttpRequest, name: str) -> HttpResponse:
    """Changes the host's state."""
    try:
        host = upkeep.set_host(actor(request), name, request.POST.get("state", ""), request.POST.get("reason", ""))
        messages.success(request, f"{host.name} {upkeep.words(host) or 'takes work'}.")
    except InvalidInputError as error:
        messages.error(request, error.message)
    return redirect("host", name=name)


@require_POST
def set_gpu(request: HttpRequest, name: str, index: int) -> HttpResponse:
    """Changes one GPU's state."""
    gpu = upkeep.set_gpu(actor(request), name, index, request.POST.get("state", ""))
    messages.success(request, f"{label(gpu)} {upkeep.words(gpu) or 'takes work'}.")
    return redirect("host", name=name)


@require_POST
def edit(request: HttpRequest, name: str) -> HttpResponse:
    """Changes role, labels, group, address and what becomes of the jobs of a host that is lost."""
    given = {field: request.POST.get(field) for field in ("role", "group", "address", "on_loss")}
    labels = [part for part in request.POST.get("labels", "").replace(",", " ").split() if part]
    try:
        host_settings.edit(actor(request), name, labels=labels, **given)
        messages.success(request, f"{name} is what you said.")
    except InvalidInputError as error:
        messages.error(request, error.message)
    return redirect("host", name=name)
