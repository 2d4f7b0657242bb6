"""What stands beside the form that starts a run, drawn anew while one types: steps, learning rate, what differs, and
whether it fits. Runs in the web process.

One request a pause brings all of it: the answer is the plan, and the estimate that htmx puts into its own place.
"""

import json
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from controlplane.errors import PilothouseError
from controlplane.models.access import Actor
from controlplane.pages import differences, run_estimate
from controlplane.pages.actors import actor
from controlplane.pages.forms.runs import RunForm
from controlplane.pages.run_form import form_of, origin_of
from controlplane.services import run_settings


@require_POST
def run_beside(request: HttpRequest) -> HttpResponse:
    """The form's choices come along; they may be long, hence no GET. Changes nothing."""
    return render(request, "runs/beside.html", _told(actor(request), form_of(request.POST)))


def _told(who: Actor, form: RunForm) -> dict[str, Any]:
    """What both fragments show. The estimate waits until every setting can be taken: the plan says which can't."""
    form.is_valid()
    based_on, template = origin_of(form)
    told: dict[str, Any] = {"based_on": based_on, "begun_with": template, "waits": True}
    if faults := form.setting_faults():
        return {**told, "faults": faults}
    if set(form.errors) & {"dataset", "model", "profile"}:
        return {**told, "reason": "Choose a dataset and a model first."}
    try:
        found = run_settings.examined(form.choice(), based_on=based_on, template=template)
    except PilothouseError as error:
        return {**told, "reason": error.message}
    return {**told, "waits": False, **_plan(found), **run_estimate.told(who, form.choice())}


def _plan(found: Mapping[str, Any]) -> dict[str, Any]:
    plan = found["plan"]
    told = {"plan": plan, "differences": differences.rows(found["found"])}
    if plan is not None:
        curve = plan["learning_rate"]
        told |= {"rate_steps": json.dumps(curve["step"]), "rate_values": json.dumps(curve["value"])}
    return told
