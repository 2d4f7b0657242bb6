"""Models: the list, one model, adding, activating, deleting. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models import Deployment, LanguageModel
from controlplane.models.access import Role
from controlplane.models.language_models import EngineName, ModelState
from controlplane.pages.actors import actor
from controlplane.pages.evaluations import headline
from controlplane.pages.forms.edits import one_at_a_time
from controlplane.pages.forms.models import ModelForm, ServingForm
from controlplane.pages.middleware import referrer
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.services import (
    activation,
    deployments,
    energy,
    engine_choice,
    engine_room,
    exports,
    hosts,
    models,
    serving_options,
    versions,
)
from controlplane.services.routing import traffic
from controlplane.services.tables import models as asked
from inference.settings import settings

TOPICS = ("models", "jobs")


def model_list(request: HttpRequest) -> HttpResponse:
    """The models that the address asks for."""
    live = mark(*TOPICS)
    table = shown(request.GET, asked.ask(request.GET), "models", placeholder="Search models", first="state")
    context = {"live": live, "table": table, "rows": _rows(table.page.rows)}
    return render(request, "models/rows.html" if request.headers.get("HX-Request") else "models/list.html", context)


def _rows(listed: list[LanguageModel]) -> list[dict[str, Any]]:
    newest: dict[Any, Any] = {}
    for row in deployments.list_deployments(100):
        newest.setdefault(row.model_id, row)
    return [{"model": model, "deployment": newest.get(model.pk)} for model in listed]


def model_page(request: HttpRequest, name: str) -> HttpResponse:
    """One model and how it is served."""
    template = "models/body.html" if request.headers.get("HX-Request") else "models/page.html"
    return render(request, template, _page(request, name))


def _page(request: HttpRequest, name: str) -> dict[str, Any]:
    live = mark(*TOPICS)
    model = models.get(name)
    served = [row for row in deployments.list_deployments(100) if row.model_id == model.pk]
    return {
        "live": live, "model": model, "deployments": served[:8], "newest": served[0] if served else None,
        "spent": {row.pk: energy.of_deployment(row) for row in served[:8]},
        "mine": actor(request).may_change(model.created_by), "derived": _derived(model),
        "engine_hosts": hosts.that_serve(),
        "versions": _versions(model), **_serving(model, served),
    }  # fmt: skip


def _serving(model: LanguageModel, served: list[Deployment]) -> dict[str, Any]:
    """What is said before it is activated, while its engine is started again, and of loading by itself."""
    ready = model.state == ModelState.READY
    room = activation.room_beside(model) if ready and deployments.active() is not None else None
    return {
        "room": room if room is not None and not room.fits else None,
        "fitting_bits": engine_room.fitting_bits(model, room) if room is not None and not room.fits else None,
        "restarts": {row.pk: deployments.restart(row.job) for row in served if row.status == "starting"},
        "outdated": [row for row in served if serving_options.is_outdated(row)],
        "in_flight": {row.pk: traffic.in_flight(row.pk) for row in served},
        "serving_form": _serving_form(model),
        "suggestion": engine_choice.suggest(model) if ready else None,
        **_exports(model),
    }  # fmt: skip


def _serving_form(model: LanguageModel, data: QueryDict | None = None) -> ServingForm:
    """Filled with what holds now."""
    kinds, minutes = exports.ready_kinds(model), model.idle_unload_seconds / 60
    chosen = (model.gguf or next(iter(kinds), "")) if model.engine == EngineName.LLAMA_CPP else ""
    now = {
        "engine": f"{model.engine}:{chosen}" if chosen else model.engine,
        "load_on_demand": model.load_on_demand, "idle_unload_minutes": f"{minutes:g}" if minutes else "",
    }  # fmt: skip
    return ServingForm(kinds, data, options=model.engine_options, initial=now)


def _versions(model: LanguageModel) -> list[dict[str, Any]]:
    """All versions beside it with the figure of their last evaluation."""
    return [
        {**row, "card": headline(row["evaluation"]) if row["evaluation"] else None} for row in versions.of_family(model)
    ]


def _exports(model: LanguageModel) -> dict[str, Any]:
    """The exports, and what else it can be exported to."""
    rows = exports.list_exports(model.name)
    taken = {row.kind for row in rows if row.state != "failed"}
    return {
        "exports": [{**exports.facts(row), "job": row.job} for row in rows],
        "export_kinds": [(kind, words) for kind, words in exports.WORDS.items() if kind not in taken],
        "can_export": exports.can_export(model),
    }  # fmt: skip


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
    """Starts an engine for a model; the page follows it. Where memory is short, the model's page asks first."""
    name = request.POST.get("name", "")
    try:
        host = hosts.get(request.POST["host"]) if request.POST.get("host") else None
        deployment = activation.activate(actor(request), name, host=host, swap=request.POST.get("swap", "ask"))
    except ConflictError as error:
        messages.error(request, error.message)
        return redirect("model", name=name)
    messages.info(request, _started(deployment))
    return redirect(referrer(request) or reverse("model", args=[name]))


def _started(deployment: Deployment) -> str:
    name = deployment.model.name
    if deployment.is_active:
        return f"{name} is active."
    if deployment.swaps:
        return f"{name} is started when the present engine has ended. Requests wait until it is ready."
    return f"{name} is being started and checked. The present one answers until it is ready."


@require_POST
def model_roll_back(request: HttpRequest) -> HttpResponse:
    """Activates the model that was active before."""
    deployment = activation.roll_back(actor(request), swap=request.POST.get("swap", "ask"))
    messages.info(request, _started(deployment))
    return redirect("active-place")


@require_POST
def engine_add(request: HttpRequest) -> HttpResponse:
    """Starts one more engine for a model."""
    deployment = activation.add_engine(actor(request), request.POST.get("name", ""))
    what = "is served by its name" if deployment.kept else "shares its requests among its engines"
    messages.info(request, f"One more engine is being started. Once it is checked, {deployment.model.name} {what}.")
    return redirect("model", name=deployment.model.name)


@require_POST
def model_serving(request: HttpRequest) -> HttpResponse:
    """What serves a model, and when its engine is loaded and unloaded by itself."""
    name = request.POST.get("name", "")
    with one_at_a_time(request):
        form = _serving_form(models.get(name), request.POST)
        if form.is_valid() and _serve_as(request, name, form):
            messages.success(request, f"{name} is served as you say from the next start of its engine on.")
            return redirect("model", name=name)
    context = {**_page(request, name), "serving_form": form}
    return render(request, "models/page.html", context, status=422)


def _serve_as(request: HttpRequest, name: str, form: ServingForm) -> bool:
    """Stores what was typed; a refusal stands beside its field."""
    engine, gguf = form.engine_and_gguf()
    minutes = form.cleaned_data["idle_unload_minutes"] or 0
    try:
        serving_options.put(
            actor(request), name, load_on_demand=form.cleaned_data["load_on_demand"],
            idle_unload_seconds=round(60 * minutes), engine=engine, gguf=gguf, engine_options=form.engine_options(),
        )  # fmt: skip
    except InvalidInputError as error:
        form.refuse(error, {f"engine_options.{one.name}": one.name for one in settings()})
        return False
    return True


@require_POST
def export_add(request: HttpRequest) -> HttpResponse:
    """Exports a model to one GGUF file."""
    name = request.POST.get("name", "")
    row = exports.create(actor(request), name, request.POST.get("kind", ""))
    messages.info(request, f"{name} is being exported as {row.kind}. It can be downloaded here once that is done.")
    return redirect("model", name=name)


@require_POST
def export_delete(request: HttpRequest, export_id: int) -> HttpResponse:
    """Takes an export and its file away."""
    row = exports.get(export_id)
    name, kind = row.model.name, row.kind
    exports.delete(actor(request), export_id)
    messages.success(request, f"The export {kind} of {name} is deleted.")
    return redirect("model", name=name)


@require_POST
def model_reload(request: HttpRequest) -> HttpResponse:
    """Starts the active engine anew."""
    deployment = activation.reload(actor(request), swap=request.POST.get("swap", "ask"))
    messages.info(request, f"{deployment.model.name} is started anew; the running engine answers until then.")
    return redirect("model", name=deployment.model.name)


@require_POST
def deployment_stop(request: HttpRequest, deployment_id: int) -> HttpResponse:
    """Lets an engine finish and ends it."""
    deployment = activation.stop(actor(request), deployment_id)
    messages.info(request, f"The engine of {deployment.model.name} finishes its requests and ends.")
    return redirect("model", name=deployment.model.name)


@require_POST
def model_delete(request: HttpRequest) -> HttpResponse:
    """Takes a model and its files away."""
    name = request.POST.get("name", "")
    models.delete(actor(request), name)
    messages.success(request, f"The model {name} is deleted.")
    return redirect("models")
