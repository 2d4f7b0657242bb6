"""Chains of runs: where each stands, begun anew, forgotten. Runs in the web process."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.pages.actors import actor
from controlplane.pages.topics import mark
from controlplane.services import chains


def chain_list(request: HttpRequest) -> HttpResponse:
    """All chains, each with its runs."""
    live = mark("jobs", "models")
    who, known = actor(request), chains.list_chains()
    runs = chains.run_ids(known)
    rows = [
        {"chain": chain, "mine": who.may_change(chain.created_by), "runs": runs[chain.pk]} for chain in known
    ]  # fmt: skip
    template = "queue/chain_rows.html" if request.headers.get("HX-Request") else "queue/chains.html"
    return render(request, template, {"live": live, "rows": rows})


@require_POST
def chain_reset(request: HttpRequest) -> HttpResponse:
    """Begins a chain anew at its base."""
    chain = chains.reset(actor(request), request.POST.get("chain", ""))
    messages.success(request, f"The next run of {chain.name} starts from {chain.base.name}.")
    return redirect("chains")


@require_POST
def chain_delete(request: HttpRequest) -> HttpResponse:
    """Forgets a chain."""
    name = request.POST.get("chain", "")
    chains.remove(actor(request), name)
    messages.success(request, f"The chain {name} is gone; its runs and models stay.")
    return redirect("chains")
