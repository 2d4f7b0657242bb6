"""The chat page: a new conversation, or one of the person's own by its address. Runs in the web process.

chat.js asks and shows; this says which models can be asked, and offers to start those that can't.
"""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.models import Conversation, Deployment, LanguageModel
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.language_models import ModelState
from controlplane.pages.actors import actor
from controlplane.pages.middleware import referrer
from controlplane.pages.topics import mark
from controlplane.services import activation, collected, conversations, deployments, models, serving_options

ENGINES_LOOKED_AT = 50
COMING = (DeploymentStatus.STARTING, DeploymentStatus.CHECKING)


@dataclass(frozen=True)
class Absent:
    """A model that was asked for and doesn't answer: its engine is `coming`, or it has none, or there is no `model`."""

    name: str
    model: LanguageModel | None
    coming: Deployment | None


@dataclass(frozen=True)
class Served:
    """Names of models: those that answer, those that are loaded when they are asked, and the rest that are ready."""

    answering: list[str]
    on_demand: list[str]
    idle: list[str]

    def can_answer(self, name: str) -> bool:
        """Whether a request for it is answered, be it after its engine has been loaded."""
        return name in self.answering or name in self.on_demand


def chat(request: HttpRequest) -> HttpResponse:
    """A new conversation, and what it is held with."""
    return _page(request, None)


def conversation(request: HttpRequest, conversation_id: int) -> HttpResponse:
    """One of the person's own."""
    return _page(request, conversations.get(actor(request), conversation_id))


def _page(request: HttpRequest, held: Conversation | None) -> HttpResponse:
    live = mark("models", "jobs")
    kept = held.settings if held is not None else {}
    wanted = request.GET.get("model", str(kept.get("model") or ""))
    beside = request.GET.get("beside", str(kept.get("beside") or ""))
    context = {"live": live, "conversation": held, **_choice(wanted, beside)}
    if request.headers.get("HX-Request"):
        return render(request, "chat/models.html", context)
    return render(request, "chat/chat.html", {**context, "sets": collected.list_sets(actor(request))})


def _choice(wanted: str, beside: str) -> dict[str, Any]:
    """What the choice of models shows."""
    rows = deployments.list_deployments(ENGINES_LOOKED_AT)
    served = _served(rows)
    wanted = wanted or next(iter([*served.answering, *served.on_demand]), "")
    asked = list(dict.fromkeys(name for name in (wanted, beside) if name))
    coming = [row for row in rows if row.status in COMING]
    return {
        "served": served, "wanted": wanted, "beside": beside, "active": deployments.active(),
        "absent": [_absent(name, coming) for name in asked if not served.can_answer(name)],
        "starting": coming[0] if coming else None, "usable": models.list_ready()[:6],
    }  # fmt: skip


def _served(rows: list[Deployment]) -> Served:
    ready = sorted((row for row in rows if row.status == DeploymentStatus.READY), key=lambda row: not row.is_active)
    answering = list(dict.fromkeys(name for row in ready for name in deployments.served_names(row)))
    others = [model for model in models.list_ready() if model.name not in answering]
    return Served(
        answering,
        [model.name for model in others if model.load_on_demand],
        [model.name for model in others if not model.load_on_demand],
    )


def _absent(name: str, coming: list[Deployment]) -> Absent:
    model = LanguageModel.objects.filter(name=name, state=ModelState.READY).first()
    return Absent(name, model, next((row for row in coming if name in deployments.served_names(row)), None))


@require_POST
def serve(request: HttpRequest) -> HttpResponse:
    """Starts an engine for a model beside the active one, or has it loaded when asked; then back to the chat."""
    who, name = actor(request), request.POST.get("name", "")
    if request.POST.get("how") == "on_demand":
        serving_options.put(who, name, load_on_demand=True)
        messages.success(request, f"{name} is loaded when somebody asks it. The first answer takes as long as that.")
    else:
        activation.add_engine(who, name)
        messages.info(request, f"An engine is being started for {name}. It answers once it is checked.")
    return redirect(referrer(request) or reverse("chat"))
