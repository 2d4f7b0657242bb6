"""Whether a run fits, told on the form that starts it while its settings are typed. Runs in the web process."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from controlplane.errors import PilothouseError
from controlplane.pages.actors import actor
from controlplane.pages.run_form import form_of
from controlplane.services import estimates

NAMES = {
    "hyperparams.per_device_train_batch_size": "batch size per device",
    "hyperparams.gradient_accumulation_steps": "accumulation steps",
    "hyperparams.max_length": "longest example",
    "model.gradient_checkpointing": "gradient checkpointing",
    "model.method": "method",
    "model.load_in_4bit": "4 bits a weight",
}
PARTS = (
    ("weights", "Weights"), ("gradients", "Gradients"), ("optimizer", "Optimizer"), ("activations", "Activations"),
    ("logits", "Logits"), ("overhead", "The process itself"),
)  # fmt: skip
TONES = {"fits": "ok", "tight": "warn", "does not fit": "bad", "unknown": "idle"}


@require_POST
def run_estimate(request: HttpRequest) -> HttpResponse:
    """The form's choices come along, hence no GET. Changes nothing."""
    form = form_of(request.POST)
    if set(form.errors) - {"name"}:
        return render(request, "runs/estimate.html", {"waits": True})
    try:
        found = estimates.estimate(actor(request), **form.choice())
    except PilothouseError as error:
        return render(request, "runs/estimate.html", {"refused": error.message})
    return render(request, "runs/estimate.html", {"found": found, **_shown(found)})


def _shown(found: estimates.Estimate) -> dict[str, Any]:
    memory = found["memory"] or {}
    return {
        "parts": [(title, memory[name]) for name, title in PARTS if memory.get(name)],
        "ways": [{"words": _words(way["settings"]), "peak_bytes": way["peak_bytes"]} for way in found["ways"]],
        "tone": TONES[found["verdict"]],
    }


def _words(settings: dict[str, Any]) -> str:
    """Settings in the form's own words."""
    told = []
    for path, value in settings.items():
        shown = "on" if value is True else f"{value:,}" if isinstance(value, int) else str(value)
        told.append(f"{NAMES.get(path, path)} {shown}")
    return ", ".join(told)
