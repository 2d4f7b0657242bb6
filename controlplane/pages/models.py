"""Models: the list, one model, adding, activating, deleting. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models import LanguageModel
from controlplane.models.access import Role
from controlplane.pages.actors import actor
from controlplane.pages.forms.models import ModelForm
from controlplane.pages.middleware import referrer
from controlplane.pages.topics import mark
from controlplane.services import deployments, energy, models

TOPICS = ("models", "jobs")


def model_list(request: HttpRequest) -> HttpResponse:
    """All models."""
    context = {"live": mark(*TOPICS), **_rows()}
    return render(request, "models/rows.html" if request.headers.get("HX-Request") else "models/list.html", context)


def _rows() -> dict[str, Any]:
    newest: dict[Any, Any] = {}
    for row in deployments.list_deployments(100):
        newest.setdefault(row.model_id, row)
    return {"rows": [{"model": model, "deployment": newest.get(model.pk)} for model in models.list_models()]}


def model_page(request: HttpRequest, name: str) -> HttpResponse:
    """One model and how it is served."""
    live = mark(*TOPICS)
    model = models.get(name)
    served = [row for row in deployments.list_deployments(100) if row.model_id == model.pk]
    context = {
        "live": live, "model": model, "deployments": served[:8], "newest": served[0] if served else None,
        "spent": {row.pk: energy.of_deployment(row) for row in served[:8]},
        "mine": actor(request).may_change(model.created_by), "derived": _derived(model),
    }  # fmt: skip
    template = "models/body.html" if request.headers.get("HX-Request") else "models/page.html"
    return render(request, template, context)


def _derived(model: LanguageModel) -> dict[str, Any]:
    return {
        "models": list(model.derived.all()[:20]),
        "runs": list(model.runs_from.order_by("-id")[:20]),
    }


def model_add(request: HttpRequest) -> HttpResponse:
    """The form that adds a model, and what it sends."""
    who = actor(request)
    form = ModelForm(who.role, request.POST or None, initial={"source": request.GET.get("source", "hub")})
    if request.method == "POST":
        who.require(Role.USE)
        if form.is_valid():
            data = form.cleaned_data
            try:
                model = models.register(
                    who, data["name"], data["source"], path=data["path"] or None, hub_id=data["hub_id"] or None,
                    revision=data["revision"] or None,
                )  # fmt: skip
                return redirect("model", name=model.name)
            except InvalidInputError as error:
                form.refuse(error, {"id": "name"})
            except ConflictError as error:
                form.add_error("name", error.message)
    return render(request, "models/add.html", {"form": form}, status=422 if form.errors else 200)


@require_POST
def model_activate(request: HttpRequest) -> HttpResponse:
    """Starts an engine for a model; the page follows it."""
    name = request.POST.get("name", "")
    deployments.activate(actor(request), name)
    messages.info(request, f"{name} is being started and checked. The present one answers until it is ready.")
    return redirect(referrer(request) or reverse("model", args=[name]))


@require_POST
def model_reload(request: HttpRequest) -> HttpResponse:
    """Starts the active engine anew."""
    deployment = deployments.reload(actor(request))
    messages.info(request, f"{deployment.model.name} is started anew; the running engine answers until then.")
    return redirect("model", name=deployment.model.name)


@require_POST
def deployment_stop(request: HttpRequest, deployment_id: int) -> HttpResponse:
    """Lets an engine finish and ends it."""
    deployment = deployments.stop(actor(request), deployment_id)
    messages.info(request, f"The engine of {deployment.model.name} finishes its requests and ends.")
    return redirect("model", name=deployment.model.name)


@require_POST
def model_delete(request: HttpRequest) -> HttpResponse:
    """Takes a model and its files away."""
    name = request.POST.get("name", "")
    models.delete(actor(request), name)
    messages.success(request, f"The model {name} is deleted.")
    return redirect("models")
