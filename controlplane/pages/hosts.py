"""Hosts and their GPUs, with the power buttons. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.models import Host
from controlplane.models.jobs import Status
from controlplane.pages.actors import actor
from controlplane.pages.instruments import gpu_card, gpu_cards
from controlplane.pages.topics import mark
from controlplane.services import hosts, jobs, power


def host_list(request: HttpRequest) -> HttpResponse:
    """Every host with its GPUs."""
    live = mark("hosts")
    found = hosts.list_hosts()
    return render(request, "hosts/list.html", {"live": live, "hosts": found, "cards": gpu_cards(found)})


def host_page(request: HttpRequest, name: str) -> HttpResponse:
    """One host: processor, memory, disks, GPUs, what runs on it."""
    live = mark("hosts", "jobs")
    context = {"live": live, **_host(hosts.get(name))}
    return render(request, "hosts/body.html" if request.headers.get("HX-Request") else "hosts/page.html", context)


def _host(host: Host) -> dict[str, Any]:
    running = [job for job in jobs.list_jobs(status=Status.RUNNING) if job.host_id == host.pk]
    return {"host": host, "cards": gpu_cards([host]), "running": running}


def gpu(request: HttpRequest, name: str, index: int) -> HttpResponse:
    """One GPU's card, drawn anew when its power or its owners changed."""
    host = hosts.get(name)
    row = next((row for row in host.gpus.all() if row.index == index), None)
    card = gpu_card(host, row) if row else None
    return render(request, "hosts/gpu.html", {"card": card})


@require_POST
def gpu_power(request: HttpRequest, name: str, index: int) -> HttpResponse:
    """Sets a power profile. The card then shows what was read back, or who refused and the fix."""
    profile = request.POST.get("profile", "")
    outcomes = power.request(actor(request), profile, host=name, gpu=index)
    if request.headers.get("HX-Request"):
        return gpu(request, name, index)
    for outcome in outcomes:
        if outcome["set"]:
            messages.success(request, f"{outcome['name']}: {outcome['power_limit_w']:g} W, set and read back.")
        else:
            messages.error(request, f"{outcome['name']}: {outcome['reason']}")
    return redirect("host", name=name)
