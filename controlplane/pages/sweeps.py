"""Power sweeps: the list with the form that starts one, and one of them, alive. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models import Gpu, PowerSweep
from controlplane.models.access import Role
from controlplane.models.telemetry import OPEN_SWEEPS, SweepStatus
from controlplane.pages.actors import actor
from controlplane.pages.forms.sweeps import SweepForm
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.services import sweeps
from controlplane.services.tables import power_sweeps as asked


def sweep_list(request: HttpRequest) -> HttpResponse:
    """All sweeps and the form of a new one; what the form sends comes here too."""
    live = mark("sweeps", "models")
    form = SweepForm(sweeps.candidates(), request.POST or None)
    if request.method == "POST":
        actor(request).require(Role.ADMIN)
        if form.is_valid() and (sweep := _started(request, form)) is not None:
            return redirect("sweep", sweep_id=sweep.pk)
    table = shown(request.GET, asked.ask(request.GET), "power-sweeps", placeholder="Search models and hosts")
    context = {
        "live": live, "form": form, "table": table, "sweeps": table.page.rows, "has_gpu": Gpu.objects.exists(),
    }  # fmt: skip
    template = "power/sweep_rows.html" if request.headers.get("HX-Request") else "power/sweeps.html"
    return render(request, template, context, status=422 if form.errors else 200)


def _started(request: HttpRequest, form: SweepForm) -> PowerSweep | None:
    try:
        return sweeps.start(actor(request), **form.cleaned_data)
    except InvalidInputError as error:
        form.refuse(error)
    except ConflictError as error:
        form.add_error(None, error.message)
    return None


def sweep_page(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """One sweep: what it does now, its figures, and what it recommends."""
    live = mark("sweeps")
    template = "power/sweep_body.html" if request.headers.get("HX-Request") else "power/sweep.html"
    return render(request, template, {"live": live, **_shown(sweeps.get(sweep_id))})


def _shown(sweep: PowerSweep) -> dict[str, Any]:
    found = sweeps.facts(sweep)
    rows = [
        {
            **row, "is_recommended": row["profile"] == sweep.recommended,
            "tokens_per_joule": 1 / row["joules_per_token"] if row["joules_per_token"] else None,
        }
        for row in found["results"]
    ]  # fmt: skip
    card = Gpu.objects.filter(host=sweep.host, uuid=sweep.gpu_uuid).first()
    return {
        "sweep": sweep, "facts": found, "rows": rows, "is_open": sweep.status in OPEN_SWEEPS,
        "is_cancelling": sweep.status == SweepStatus.CANCELLING, "in_force": card.power_profile if card else "",
    }  # fmt: skip


@require_POST
def sweep_cancel(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """Ends a sweep."""
    sweeps.cancel(actor(request), sweep_id)
    messages.info(request, "It ends, and the power that the GPU had before is put back.")
    return redirect("sweep", sweep_id=sweep_id)


@require_POST
def sweep_use(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """Sets the profile that a sweep recommends; says what was read back."""
    outcome = sweeps.use(actor(request), sweep_id)
    where = f"GPU {outcome['index']} on {outcome['host']}"
    if outcome["set"]:
        messages.success(request, f"{where}: {outcome['profile']}, {outcome['power_limit_w']:g} W, set and read back.")
    else:
        messages.error(request, f"{where}: {outcome['reason']} {outcome['fix'] or ''}".strip())
    return redirect("sweep", sweep_id=sweep_id)
