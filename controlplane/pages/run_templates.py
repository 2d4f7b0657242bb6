"""Run templates: the list, the page that changes one, one made of a run. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models import RunTemplate
from controlplane.models.datasets import DatasetStatus
from controlplane.pages import differences
from controlplane.pages.actors import actor
from controlplane.pages.forms.edits import one_at_a_time
from controlplane.pages.forms.runs import TemplateForm, initial_of
from controlplane.services import datasets, models, run_templates, runs
from training.config.difference import differences as config_differences


def template_list(request: HttpRequest) -> HttpResponse:
    """All templates, each with what it sets."""
    rows = [
        {
            "template": row, "settings": differences.rows(config_differences({}, row.config)),
            "mine": actor(request).may_change(row.created_by),
        }
        for row in run_templates.list_templates()
    ]  # fmt: skip
    return render(request, "runs/templates.html", {"rows": rows})


def template_page(request: HttpRequest, template_id: int) -> HttpResponse:
    """One template's name and settings; its maker or an admin changes them."""
    with one_at_a_time(request):
        row = run_templates.get(template_id)
        form = _form(row, request.POST or None)
        if request.method == "POST" and form.is_valid() and _changed(request, row, form):
            messages.success(request, f"The template {form.cleaned_data['name']} is saved.")
            return redirect("run-templates")
    return _page(request, row, form)


def _form(row: RunTemplate, data: Any = None) -> TemplateForm:
    """The form; the template's own dataset and model can be chosen whatever their state."""
    ready = [item for item in datasets.list_datasets() if item.status == DatasetStatus.READY or item == row.dataset]
    usable = models.list_ready()
    if row.model is not None and row.model not in usable:
        usable = [*usable, row.model]
    initial = {
        "name": row.name, "description": row.description, "dataset": str(row.dataset_id or ""),
        "model": row.model.name if row.model else "", **initial_of(row.config),
    }  # fmt: skip
    initial["profile"] = row.config.get("profile", {}).get("name", "plain")
    return TemplateForm(ready, usable, data, initial=initial)


def _page(request: HttpRequest, row: RunTemplate, form: TemplateForm) -> HttpResponse:
    context = {"template": row, "form": form, "mine": actor(request).may_change(row.created_by)}
    return render(request, "runs/template.html", context, status=422 if form.is_bound else 200)


def _changed(request: HttpRequest, row: RunTemplate, form: TemplateForm) -> bool:
    data = form.cleaned_data
    changes = {
        "name": data["name"], "description": data["description"], "dataset": data["dataset"] or None,
        "model": data["model"] or None, "config": form.whole(),
    }  # fmt: skip
    try:
        run_templates.change(actor(request), row.pk, changes)
    except InvalidInputError as error:
        form.refuse(error, form.paths())
        return False
    except ConflictError as error:
        form.add_error("name", error.message)
        return False
    return True


@require_POST
def template_delete(request: HttpRequest, template_id: int) -> HttpResponse:
    """Forgets a template."""
    name = run_templates.get(template_id).name
    run_templates.remove(actor(request), template_id)
    messages.success(request, f"The template {name} is deleted. Runs that were started from it stay.")
    return redirect("run-templates")


@require_POST
def run_template(request: HttpRequest, run_id: int) -> HttpResponse:
    """Makes a template of a run's settings."""
    row = run_templates.save_run(
        actor(request), runs.get(run_id), name=request.POST.get("name", ""),
        description=request.POST.get("description", ""),
    )  # fmt: skip
    messages.success(request, f"Saved as the template {row.name}.")
    return redirect("run", run_id=run_id)
