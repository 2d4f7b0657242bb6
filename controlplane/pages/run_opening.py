"""What the charts of a run are first drawn from, written into its page: the first line waits for no further answer.

Runs in the web process. Everything else, and all of it anew after a reset, is read through the API.
"""

from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from pydantic_core import to_json

from controlplane.models import Run
from controlplane.services import curve_reading, run_facts

COMPANION = "eval_loss"
_ESCAPES = {ord("<"): "\\u003C", ord(">"): "\\u003E", ord("&"): "\\u0026"}


def opening(run: Run) -> SafeString:
    """A script element of type application/json: `outline`, `checkpoints` and `series`, each as the API answers it."""
    found: dict[str, Any] = {
        "outline": curve_reading.outline(run),
        "checkpoints": run_facts.checkpoints(run),
        "series": curve_reading.answer(run, (run_facts.main_key(run), COMPANION))["series"],
    }
    # As Django's json_script does; its encoder takes ten times as long over numbers by the thousand.
    text = mark_safe(to_json(found).decode().translate(_ESCAPES))  # noqa: S308 - nothing of it can end the element
    return format_html('<script id="run-opening" type="application/json">{}</script>', text)
