"""Sweeps of training runs: the list, the form that begins one, and one of them, alive. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError
from controlplane.models import RunSweep
from controlplane.models.access import Role
from controlplane.models.run_sweeps import SweepState
from controlplane.pages.actors import actor
from controlplane.pages.forms.run_sweeps import (
    RunSweepForm,
    SpaceRow,
    choices,
    metric_words,
    new_row,
    rows_of,
)
from controlplane.pages.numbers import short
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.services import datasets, models, run_compare, run_sweeps, run_templates, runs, sweep_space
from controlplane.services.tables import sweeps as asked
from training.config.fields import by_path

RUNS_OFFERED = 30
FIRST_FIELD = "hyperparams.learning_rate"


def sweep_list(request: HttpRequest) -> HttpResponse:
    """The sweeps that the address asks for."""
    live = mark(run_sweeps.TOPIC)
    table = shown(request.GET, asked.ask(request.GET), "sweeps", placeholder="Search names", first="state")
    rows = [
        {
            **run_sweeps.facts(sweep), "sweep": sweep, "metric": metric_words(sweep),
            "varies": ", ".join(by_path()[path].title for path in sweep.fields),
        }
        for sweep in table.page.rows
    ]  # fmt: skip
    template = "run_sweeps/rows.html" if request.headers.get("HX-Request") else "run_sweeps/list.html"
    return render(request, template, {"live": live, "table": table, "rows": rows})


def sweep_new(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends."""
    wanted = {name: request.GET[name] for name in ("dataset", "model", "start") if name in request.GET}
    starts = run_templates.list_templates(), runs.list_runs(RUNS_OFFERED)
    ready, usable = datasets.list_ready(), models.list_ready()
    form = RunSweepForm(ready, usable, *starts, request.POST or None, initial=wanted)
    rows = [new_row(FIRST_FIELD)]
    if request.method == "POST":
        actor(request).require(Role.USE)
        rows = rows_of(request.POST)
        if form.is_valid():
            made, faults = _created(request, form, rows)
            if made is not None:
                return redirect("run-sweep", sweep_id=made.pk)
            rows = rows_of(request.POST, faults)
    context = {"form": form, "rows": rows or [new_row()], "choices": choices(), "datasets": ready, "models": usable}
    return render(request, "run_sweeps/new.html", context, status=422 if form.errors else 200)


def _created(request: HttpRequest, form: RunSweepForm, rows: list[SpaceRow]) -> tuple[RunSweep | None, dict[int, str]]:
    """The sweep, or what is wrong with which row; the rest stands beside the fields."""
    data = form.cleaned_data
    try:
        config = _config(data["start"], data["config"])
        sweep = run_sweeps.create(
            actor(request), name=data["name"], dataset=int(data["dataset"]), model=data["model"],
            profile=data["profile"] or config.get("profile", {}).get("name", "plain"), config=config,
            method=data["method"], metric=data["metric"], max_trials=data["max_trials"],
            max_parallel=data["max_parallel"], seed=data["seed"], space=[row.item() for row in rows],
        )  # fmt: skip
    except InvalidInputError as error:
        faults = {
            int(fault.path.partition(".")[2]): fault.message
            for fault in error.faults
            if fault.path.startswith("space.")
        }
        form.refuse(error, {fault.path: "config" for fault in error.faults if fault.path.startswith("config.")})
        return None, faults
    return sweep, {}


def _config(start: str, typed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings of a template or a run, with those that were typed over them."""
    kind, _, number = start.partition(":")
    if kind == "template":
        config = run_templates.get(int(number)).config
    elif kind == "run":
        config = run_templates.settings_of(runs.get(int(number)))
    else:
        config = {}
    flat = {f"{section}.{name}": value for section, values in typed.items() for name, value in values.items()}
    return sweep_space.merged(config, flat)


def sweep_row(request: HttpRequest) -> HttpResponse:
    """One more row of the form."""
    return render(request, "run_sweeps/space_row.html", {"row": new_row(), "choices": choices()})


def sweep_page(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """One sweep: its trials in a table and a plot, and the best of them."""
    live = mark(run_sweeps.TOPIC, "jobs")
    sweep = run_sweeps.get(sweep_id)
    template = "run_sweeps/body.html" if request.headers.get("HX-Request") else "run_sweeps/page.html"
    return render(request, template, {"live": live, **_shown(request, sweep)})


def _shown(request: HttpRequest, sweep: RunSweep) -> dict[str, Any]:
    fields = [{"path": path, "title": by_path()[path].title} for path in sweep.fields]
    trials = [
        {**trial, "shown": [(field["title"], _text(trial["params"].get(field["path"]))) for field in fields]}
        for trial in run_sweeps.trials(sweep)
    ]
    best = next((trial for trial in trials if trial["is_best"]), None)
    there = [str(trial["run_id"]) for trial in trials if trial["run_id"]][: run_compare.MOST]
    return {
        "compared": ",".join(there) if len(there) >= run_compare.FEWEST else "",
        "sweep": sweep, "facts": run_sweeps.facts(sweep), "metric": metric_words(sweep), "fields": fields,
        "trials": trials, "best": best,
        "mine": actor(request).may_change(sweep.created_by), "is_paused": sweep.state == SweepState.PAUSED,
        "may_delete": sweep.has_ended and not any(trial["state"] == "running" for trial in trials),
        "dimensions": [_words(item) for item in sweep.space],
    }  # fmt: skip


def _words(item: dict[str, Any]) -> str:
    """A dimension in words: "Learning rate 1e-5 to 0.01, logarithmic"."""
    title = by_path()[item["field"]].title
    if item.get("values"):
        return f"{title} {', '.join(_text(value) for value in item['values'])}"
    how = ", logarithmic" if item.get("log") else f", in steps of {short(item['step'])}" if item.get("step") else ""
    return f"{title} {short(item['low'])} to {short(item['high'])}{how}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return short(value, 4) if isinstance(value, float) else str(value)


@require_POST
def sweep_pause(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """Starts no more runs for now."""
    run_sweeps.pause(actor(request), sweep_id)
    messages.info(request, "It starts no more runs until you resume it; those that are there go on.")
    return redirect("run-sweep", sweep_id=sweep_id)


@require_POST
def sweep_resume(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """Starts runs again."""
    run_sweeps.resume(actor(request), sweep_id)
    messages.info(request, "It starts runs again.")
    return redirect("run-sweep", sweep_id=sweep_id)


@require_POST
def sweep_stop(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """Ends it: `mode` finish or now."""
    mode = request.POST.get("mode", "finish")
    run_sweeps.stop(actor(request), sweep_id, mode)
    messages.info(request, "It has ended; its runs are cancelled." if mode == "now" else "It has ended.")
    return redirect("run-sweep", sweep_id=sweep_id)


@require_POST
def sweep_delete(request: HttpRequest, sweep_id: int) -> HttpResponse:
    """Takes it off the books."""
    run_sweeps.delete(actor(request), sweep_id)
    messages.success(request, f"Sweep {sweep_id} is deleted; its runs stay.")
    return redirect("run-sweeps")
