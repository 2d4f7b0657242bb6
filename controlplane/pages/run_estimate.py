"""Whether a run fits, in the words of the form that starts it. Runs in the web process."""

from collections.abc import Mapping
from typing import Any

from controlplane.errors import PilothouseError
from controlplane.models.access import Actor
from controlplane.services import estimates
from training.config.fields import by_path

PARTS = (
    ("weights", "Weights"), ("gradients", "Gradients"), ("optimizer", "Optimizer"), ("activations", "Activations"),
    ("logits", "Logits"), ("overhead", "The process itself"),
)  # fmt: skip
TONES = {"fits": "ok", "tight": "warn", "does not fit": "bad", "unknown": "idle"}


def told(actor: Actor, choice: Mapping[str, Any]) -> dict[str, Any]:
    """What `runs/estimate.html` shows of a run with these choices (`RunForm.choice`)."""
    try:
        found = estimates.estimate(actor, **choice)
    except PilothouseError as error:
        return {"refused": error.message}
    memory = found["memory"] or {}
    return {
        "found": found,
        "parts": [(title, memory[name]) for name, title in PARTS if memory.get(name)],
        "ways": [{"words": _words(way["settings"]), "peak_bytes": way["peak_bytes"]} for way in found["ways"]],
        "tone": TONES[found["verdict"]],
    }


def _words(settings: dict[str, Any]) -> str:
    """Settings in the form's own words."""
    told = []
    for path, value in settings.items():
        shown = "on" if value is True else f"{value:,}" if isinstance(value, int) else str(value)
        told.append(f"{by_path()[path].inner_title} {shown}")
    return ", ".join(told)
