"""The first steps: a card on the bridge, and what its buttons do. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError
from controlplane.pages.actors import actor, person
from controlplane.pages.forms.runs import initial_of
from controlplane.pages.middleware import referrer
from controlplane.services import first_steps, sample_data


def card(request: HttpRequest) -> dict[str, Any]:
    """What the card shows; `steps` None: it isn't shown."""
    found = first_steps.of(person(request))
    return {"steps": found, "first_run": first_steps.choices(found) if found is not None else None}


def beginning(request: HttpRequest) -> dict[str, Any]:
    """What the form of the first run begins with."""
    found = first_steps.of(person(request))
    if found is None:
        return {}
    chosen = first_steps.choices(found)
    dataset, model = chosen["dataset"], chosen["model"]
    return {
        "name": chosen["name"], "dataset": str(dataset.pk) if dataset is not None else "",
        "model": model.name if model is not None else "", **initial_of(chosen["config"]),
    }  # fmt: skip


@require_POST
def get_model(request: HttpRequest) -> HttpResponse:
    """Fetches the small model."""
    try:
        model = first_steps.get_model(actor(request))
        messages.info(request, f"{model.name} is being fetched.")
    except ConflictError as error:
        messages.info(request, error.message)
    return redirect("bridge")


@require_POST
def use_sample(request: HttpRequest) -> HttpResponse:
    """Takes the sample dataset in."""
    dataset, is_new = sample_data.use(actor(request))
    messages.success(request, f"{dataset} is being checked." if is_new else f"The sample data is here: {dataset}.")
    return redirect(referrer(request) or reverse("bridge"))


@require_POST
def show(request: HttpRequest) -> HttpResponse:
    """Puts the card away for this person, or brings it back."""
    shown = request.POST.get("shown") == "yes"
    first_steps.show(person(request), shown)
    if shown:
        messages.success(request, "The first steps are on the bridge again, as long as there is one left.")
    return redirect(referrer(request) or reverse("bridge"))
