"""A run that was made elsewhere: its page, and the form that makes one of event files. Runs in the web process."""

import json
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.errors import NotFoundError
from controlplane.models import Run
from controlplane.pages.actors import actor
from controlplane.services import run_facts, runs, settings
from controlplane.services.run_import import MOST_FILES
from controlplane.services.uploads import EVENT_FILE

PARTS = {"head": "runs/external_head.html", "figures": "runs/external_figures.html"}
SPAN = ("began_at", "ended_at")
FIGURES = 6
LONGEST = 500


def import_page(request: HttpRequest) -> HttpResponse:
    """The form; run-import.js sends the files in parts through the API."""
    context = {"max_bytes": settings.get("uploads.max_bytes"), "event_file": EVENT_FILE, "most_files": MOST_FILES}
    return render(request, "runs/import.html", context)


def part(request: HttpRequest, run: Run, name: str) -> HttpResponse:
    """One part of its page, drawn anew when something was announced."""
    if name not in PARTS:
        raise NotFoundError(f"The page of run {run.pk}, which was made elsewhere, has no part {name!r}.")
    return render(request, PARTS[name], shown(request, run))


def shown(request: HttpRequest, run: Run) -> dict[str, Any]:
    """What its page shows: what came of it, and the settings that its script told."""
    main = run_facts.main_key(run)
    others = sorted(key for key in run.last if key != main)
    result = run.job.result or {}
    return {
        "run": run, "facts": runs.facts(run), "main": main, "mine": actor(request).may_change(run.created_by),
        "figures": [(key, run.last[key]) for key in [main, *others][:FIGURES] if key in run.last],
        "has_curves": bool(run.last) or not run.job.has_ended,
        "settings": [(key, _words(value)) for key, value in run.own_config.items()],
        "result": result, "recorded": [datetime.fromisoformat(result[name]) for name in SPAN if name in result],
    }  # fmt: skip


def _words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
