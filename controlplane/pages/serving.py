"""The active place with its history, and splits. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import PilothouseError
from controlplane.pages.actors import actor
from controlplane.pages.forms.splits import SplitForm
from controlplane.pages.topics import mark
from controlplane.services import activation, deployments, models, splits


def active_place(request: HttpRequest, form: SplitForm | None = None) -> HttpResponse:
    """Which model is active, which were before, and the names behind which several answer."""
    names = [model.name for model in models.list_ready()]
    context: dict[str, Any] = {
        "live": mark("models"), "active": deployments.active(), "before": activation.before_active(),
        "history": activation.history(), "splits": [splits.facts(split) for split in splits.list_splits()],
        "ready": list(deployments.ready()), "form": form or SplitForm(names), "tab": "active",
    }  # fmt: skip
    if context["before"] is not None:
        room = activation.room_beside(context["before"])
        context["room"] = room if room is not None and not room.fits else None
    template = "models/active_body.html" if request.headers.get("HX-Request") else "models/active.html"
    return render(request, template, context, status=422 if form is not None else 200)


@require_POST
def split_put(request: HttpRequest) -> HttpResponse:
    """Makes a split or gives it other weights."""
    form = SplitForm([model.name for model in models.list_ready()], request.POST)
    if form.is_valid():
        try:
            split = splits.put(actor(request), form.cleaned_data["name"], form.parts())
            messages.success(request, f"Requests for {split.name} are shared from now on.")
            return redirect("active-place")
        except PilothouseError as error:
            if error.status_code not in (409, 422):
                raise
            form.add_error("name" if "parts" not in str(getattr(error, "faults", "")) else None, error.message)
    return active_place(request, form)


@require_POST
def split_delete(request: HttpRequest) -> HttpResponse:
    """Takes a split's name away."""
    name = request.POST.get("name", "")
    splits.delete(actor(request), name)
    messages.success(request, f"{name} is no name of anything any more; its models stay.")
    return redirect("active-place")
