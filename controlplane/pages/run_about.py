"""What people say of a run, on its page: name, tags, group, notes, edited in place. Runs in the web process."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.errors import InvalidInputError
from controlplane.models import Run
from controlplane.pages.actors import actor
from controlplane.row_ids import row_id
from controlplane.services import run_about, runs
from controlplane.services.run_about import StaleEditionError

TYPED = ("name", "tags", "group", "notes")


def about(request: HttpRequest, run_id: int) -> HttpResponse:
    """The words as they are, or with `?edit` the form that changes them; and what that sends."""
    run = runs.get(run_id)
    if request.method == "POST":
        return _changed(request, run)
    if "edit" not in request.GET:
        return render(request, "runs/about.html", shown(request, run))
    actor(request).require_owner(f"Run {run_id}", run.created_by)
    return render(request, "runs/about_form.html", _form(run, _texts(run)))


def shown(request: HttpRequest, run: Run) -> dict[str, Any]:
    """What `runs/about.html` shows."""
    return {"run": run, "about": run_about.about(run), "mine": actor(request).may_change(run.created_by)}


def _texts(run: Run) -> dict[str, str]:
    words = run_about.about(run)
    return {**words, "tags": ", ".join(words["tags"])}


def _form(run: Run, typed: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"run": run, "typed": typed, "edition": run.edition, **more}


def _changed(request: HttpRequest, run: Run) -> HttpResponse:
    """Saves; what can't be taken, or came too late, leaves all that was typed in its place.

    The answer is 200 whichever: htmx puts no other into the page.
    """
    typed = {name: request.POST.get(name, "") for name in TYPED}
    edition = row_id(request.POST.get("edition", ""))
    try:
        run = run_about.change(actor(request), run.pk, typed, edition)
    except InvalidInputError as error:
        faults = {fault.path: fault.message for fault in error.faults}
        context = {**_form(run, typed, faults=faults), "edition": edition}
        return render(request, "runs/about_form.html", context)
    except StaleEditionError as error:
        now = _texts(error.run)
        theirs = {name: now[name] for name in error.changed if name in now and now[name] != typed[name]}
        return render(request, "runs/about_form.html", _form(error.run, typed, stale=error.message, theirs=theirs))
    return render(request, "runs/about.html", shown(request, run))
