"""The form that starts a run: empty, or begun with a template, another run's settings or a config.json.

Runs in the web process. What stands beside it while one types is `pages.run_beside`'s.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.models import Dataset, LanguageModel, Run, RunTemplate
from controlplane.models.access import Role
from controlplane.models.datasets import DatasetStatus
from controlplane.models.jobs import Priority
from controlplane.models.language_models import ModelState
from controlplane.pages import first_steps
from controlplane.pages.actors import actor
from controlplane.pages.forms.runs import RunForm, initial_of, shown
from controlplane.row_ids import row_id
from controlplane.services import chains, datasets, models, run_settings, run_templates, runs
from training.config.fields import by_path

HEAD = {"data.train_dataset": "dataset", "model.model": "model", "profile.name": "profile"}
"""Settings that the form asks in its own words."""


@dataclass
class Beginning:
    """What a form starts with, and what is to be said about it."""

    initial: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def run_new(request: HttpRequest) -> HttpResponse:
    """The form (`like`: a run, `template`: a template, `first`: for the first run; `dataset`, `model`, `name`)."""
    if request.method == "POST":
        actor(request).require(Role.USE)
        form = form_of(request.POST)
        if form.is_valid() and (run := _created(request, form)) is not None:
            return redirect("run", run_id=run.pk)
        return _page(request, form)
    begun = _beginning(request)
    return _page(request, form_of(initial=begun.initial), notices=begun.notices)


def form_of(data: Any = None, initial: dict[str, Any] | None = None) -> RunForm:
    """The form with what can be chosen now."""
    return RunForm(datasets.list_ready(), models.list_ready(), data, initial=initial or {})


def _page(request: HttpRequest, form: RunForm, **more: Any) -> HttpResponse:
    based_on, template = origin_of(form)
    context = {
        "form": form, "datasets": form.choices("dataset"), "models": form.choices("model"),
        "fetching": models.count_unready(), "templates": run_templates.list_templates(),
        "based_on": based_on, "begun_with": template, "chains": chains.list_chains(), **more,
    }  # fmt: skip
    is_refused = bool(form.is_bound and form.errors) or "load_faults" in more
    return render(request, "runs/new.html", context, status=422 if is_refused else 200)


def _created(request: HttpRequest, form: RunForm) -> Run | None:
    data = form.cleaned_data
    origin, _ = origin_of(form)  # it may have been deleted while this was typed
    try:
        return runs.create(
            actor(request), name=data["name"], priority=data["priority"],
            based_on=origin.pk if origin else None, **form.choice(),
        )  # fmt: skip
    except InvalidInputError as error:
        form.refuse(error, form.paths())
        return None


# --- What it begins with ----------------------------------------------------------------------------------------------


def _beginning(request: HttpRequest) -> Beginning:
    """The initial values by the address. Raises NotFoundError for a run or template that isn't there."""
    asked = request.GET
    if "like" in asked:
        begun = _like(runs.get(_number(asked["like"], "run")))
    elif "template" in asked:
        begun = _of_template(run_templates.get(_number(asked["template"], "run template")))
    elif "first" in asked:
        begun = Beginning(first_steps.beginning(request), ["Filled in for this machine, so that it ends in minutes."])
    else:
        begun = Beginning()
    begun.initial |= {name: asked[name] for name in ("dataset", "model", "name") if name in asked}
    return begun


def _number(text: str, noun: str) -> int:
    number = row_id(text)
    if number is None:
        raise NotFoundError(f"There is no {noun} {text!r}.")
    return number


def _like(run: Run) -> Beginning:
    initial = {
        "name": run.name, "dataset": str(run.dataset_id), "model": run_templates.start_of(run), "profile": run.profile,
        "priority": Priority(run.job.priority).name.lower(), "based_on": run.pk,
        **initial_of(run_templates.settings_of(run)),
    }  # fmt: skip
    return Beginning(initial, _gone(run.dataset, None if run.chain else run.model))


def _of_template(row: RunTemplate) -> Beginning:
    initial: dict[str, Any] = {"template": row.pk, **initial_of(row.config)}
    initial["profile"] = row.config.get("profile", {}).get("name", "plain")
    if row.dataset is not None:
        initial["dataset"] = str(row.dataset.pk)
    if row.model is not None:
        initial["model"] = row.model.name
    elif chains.find(chains.name_in(row.config)):
        initial["model"] = ""
    return Beginning(initial, _gone(row.dataset, row.model))


def _gone(dataset: Dataset | None, model: LanguageModel | None) -> list[str]:
    """What can't be chosen again."""
    found = []
    if dataset is not None and dataset.status != DatasetStatus.READY:
        found.append(f"The dataset {dataset} is {dataset.status}: choose another.")
    if model is not None and model.state != ModelState.READY:
        found.append(f"The model {model.name} is {model.state}: choose another.")
    return found


def origin_of(form: RunForm) -> tuple[Run | None, RunTemplate | None]:
    """The run or the template that the form began with; None for what has been deleted meanwhile."""
    run = template = None
    with suppress(NotFoundError):
        run = runs.get(_number(str(form["based_on"].value()), "run"))
    with suppress(NotFoundError):
        template = run_templates.get(_number(str(form["template"].value()), "run template"))
    return run, template


# --- A config.json ----------------------------------------------------------------------------------------------------


@require_POST
def run_load(request: HttpRequest) -> HttpResponse:
    """Fills in what a configuration file says, chosen (`config_file`) or pasted (`config_text`); the rest stays."""
    actor(request).require(Role.USE)
    form = form_of(request.POST)
    file, text = request.FILES.get("config_file"), request.POST.get("config_text", "")
    try:
        if file is None and not text.strip():
            raise InvalidInputError("Choose a file or paste its content first.")
        if file is not None and (file.size or 0) > run_settings.MAX_FILE_BYTES:
            raise InvalidInputError(f"{file.name} is too large: a configuration has at most a mebibyte.")
        found = run_settings.read_file(file.read() if file is not None else text)
    except InvalidInputError as error:
        faults = [f"{fault.path.removeprefix('config.')}: {fault.message}" for fault in error.faults]
        return _page(
            request, form_of(initial=form.typed()), load_faults=faults or [error.message], load_text=text
        )  # fmt: skip
    begun = Beginning(form.typed())
    said = {path: value for path, value, source, _ in found.explained if source == "json"}
    filled = sum(_fill(begun, form, path, value) for path, value in said.items())
    if "model.model" not in said and chains.find(str(said.get("model.chain", ""))):
        begun.initial["model"] = ""
    named = file.name if file is not None else "what was pasted"
    context = {"loaded": named, "loaded_count": filled, "left_out": found.left_out}
    return _page(request, form_of(initial=begun.initial), notices=begun.notices, **context)


def _fill(begun: Beginning, form: RunForm, path: str, value: Any) -> bool:
    """Puts a setting into its field; says why where it can't."""
    if path in HEAD:
        name, text = HEAD[path], str(value)
        if text in {choice for choice, _ in form.choices(name)}:
            begun.initial[name] = text
            return True
        if text:
            begun.notices.append(f"There is no {name} {text!r} that is ready here: choose one.")
        return False
    if path in form.fields:
        begun.initial[path] = shown(by_path()[path], value)
        return True
    if value:
        reason = "the model decides it" if path.startswith("locked.") else "Pilothouse chooses it for each run"
        begun.notices.append(f"{path} is left out: {reason}.")
    return False


# --- A template of what is typed --------------------------------------------------------------------------------------


@require_POST
def run_save_template(request: HttpRequest) -> HttpResponse:
    """Saves what is typed as a template (`template_name`, `template_description`); the form stays as it is."""
    form = form_of(request.POST)
    name, about = request.POST.get("template_name", ""), request.POST.get("template_description", "")
    form.fields["name"].required = False
    kept = {"template_name": name, "template_description": about}
    if not form.is_valid():
        return _page(request, form, **kept)
    try:
        row = run_templates.save(
            actor(request), name=name, description=about, model=form.cleaned_data["model"],
            dataset=form.cleaned_data["dataset"], config=form.whole(),
        )  # fmt: skip
    except (InvalidInputError, ConflictError) as error:
        return _page(request, form_of(initial=form.typed()), template_fault=error.message, **kept)
    messages.success(request, f"Saved as the template {row.name}. Nothing was started.")
    return _page(request, form_of(initial=form.typed()))
