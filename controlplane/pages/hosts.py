"""The fleet, one host, one GPU: figures, history, processes, the buttons on them. Runs in the web process."""

from datetime import UTC, datetime
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError
from controlplane.models import Host
from controlplane.models.jobs import Status
from controlplane.pages import fleet_map, host_files, upkeep
from controlplane.pages.actors import actor
from controlplane.pages.history_charts import charts
from controlplane.pages.instruments import gpu_card, gpu_cards, processes, signature
from controlplane.pages.middleware import referrer
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import gpu_processes, hosts, jobs, persistence, power, settings
from controlplane.services.fleet_figures import FEW_HOSTS


def host_list(request: HttpRequest) -> HttpResponse:
    """The fleet: a card a GPU and a card a host; of many hosts a map."""
    if hosts.count() > FEW_HOSTS:
        context = {"live": mark("fleet"), **fleet_map.context(request)}
        template = "hosts/fleet_map.html" if request.headers.get("HX-Request") else "hosts/fleet.html"
        return render(request, template, context)
    live = mark("hosts")
    found = hosts.list_hosts()
    context = {"live": live, "hosts": found, "cards": gpu_cards(found)}
    return render(request, "hosts/cards.html" if request.headers.get("HX-Request") else "hosts/list.html", context)


def host_page(request: HttpRequest, name: str) -> HttpResponse:
    """One host: its GPUs and what happened to them, the processes on them, the machine itself, what runs on it."""
    live = mark("hosts", "jobs")
    host = hosts.get(name)
    context = {"live": live, **_host(host), **host_files.context(host), **upkeep.context(host)}
    return render(request, "hosts/body.html" if request.headers.get("HX-Request") else "hosts/page.html", context)


def host_details(request: HttpRequest, name: str) -> HttpResponse:
    """The lower part of the page, drawn anew when what it says in words has changed."""
    return render(request, "hosts/details.html", _host(hosts.get(name)))


def _host(host: Host) -> dict[str, Any]:
    running = [job for job in jobs.list_jobs(status=Status.RUNNING) if job.host_id == host.pk]
    cards = gpu_cards([host])
    since = host.reading.get("gpu_fault_since")
    skew, most = host.clock_skew_seconds, settings.get("hosts.max_clock_skew_seconds")
    return {
        "host": host, "cards": cards, "running": running, "processes": list(processes(host, cards)),
        "untold": [card.untold for card in cards if card.untold],
        "signature": signature(host.reading), "charts": charts(host, [card.gpu for card in cards]),
        "gpu_fault_since": None if since is None else datetime.fromtimestamp(since, UTC),
        "max_clock_skew": most, "is_clock_off": skew is not None and abs(skew) > most,
    }  # fmt: skip


def gpu(request: HttpRequest, name: str, index: int) -> HttpResponse:
    """One GPU's card, drawn anew when its power or its owners changed."""
    host = hosts.get(name)
    row = next((row for row in hosts.gpus_of(host) if row.index == index), None)
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


@require_POST
def gpu_persistence(request: HttpRequest, name: str, index: int) -> HttpResponse:
    """Sets persistence mode. The list then shows what was read back, or who refused and the fix."""
    outcomes = persistence.request(actor(request), request.POST.get("enabled") == "yes", host=name, gpu=index)
    if request.headers.get("HX-Request"):
        return host_details(request, name)
    for outcome in outcomes:
        if outcome["set"]:
            messages.success(request, f"{outcome['name']}: persistence mode set and read back.")
        else:
            messages.error(request, f"{outcome['name']}: {outcome['reason']}")
    return redirect("host", name=name)


@require_POST
def process_end(request: HttpRequest, name: str) -> HttpResponse:
    """Ends a process that holds GPU memory without a live job. What came of it stands where the button was."""
    pid, start_ticks = (row_id(request.POST.get(field, "")) for field in ("pid", "start_ticks"))
    if pid is None or start_ticks is None:
        raise InvalidInputError("Name the process by its pid and its start ticks: load the page again.")
    outcome = gpu_processes.end(
        actor(request), name, pid, start_ticks, request.POST.get("boot_id", ""),
        others=request.POST.get("others") == "yes",
    )  # fmt: skip
    if request.headers.get("HX-Request"):
        return render(request, "hosts/ended.html", {"outcome": outcome})
    words = f"Process {outcome.pid} ({outcome.command or 'no name'}) on {outcome.host}"
    if outcome.ended:
        messages.success(request, f"{words} has ended. {outcome.reason or ''}")
    else:
        messages.warning(request, f"{words}: {outcome.reason}")
    return redirect(referrer(request) or reverse("host", args=[name]))
