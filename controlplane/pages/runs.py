"""Training runs: the list, the form that starts one, the page that watches one. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError, NotFoundError, PilothouseError
from controlplane.models import Run, Sample
from controlplane.models.access import Role
from controlplane.models.datasets import DatasetStatus
from controlplane.models.language_models import ModelState
from controlplane.pages.actors import actor
from controlplane.pages.forms.runs import RunForm
from controlplane.pages.topics import mark
from controlplane.services import datasets, deployments, energy, logs, models, run_facts, runs

PAGE_ROWS = 50
LOG_LINES = 200
SAMPLES_SHOWN = 12
PARTS = ("head", "checkpoints", "samples", "result", "energy")


def run_list(request: HttpRequest) -> HttpResponse:
    """All runs, newest first, fifty a page."""
    before = request.GET.get("before", "")
    context = {"live": mark("jobs"), **_rows(int(before) if before.isdecimal() and len(before) < 19 else None)}
    template = "runs/rows.html" if request.headers.get("HX-Request") else "runs/list.html"
    return render(request, template, context)


def _rows(before_id: int | None) -> dict[str, Any]:
    rows = runs.list_runs(PAGE_ROWS + 1, before_id)
    more = rows[PAGE_ROWS - 1].pk if len(rows) > PAGE_ROWS else None
    listed = [{"run": run, "progress": run_facts.progress(run)} for run in rows[:PAGE_ROWS]]
    return {"rows": listed, "more": more, "before": before_id}


def run_new(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends."""
    ready = [row for row in datasets.list_datasets() if row.status == DatasetStatus.READY]
    usable = models.list_ready()
    wanted = {name: request.GET[name] for name in ("dataset", "model", "name") if name in request.GET}
    form = RunForm(ready, usable, request.POST or None, initial=wanted)
    if request.method == "POST":
        actor(request).require(Role.USE)
        if form.is_valid() and (run := _created(request, form)) is not None:
            return redirect("run", run_id=run.pk)
    context = {"form": form, "datasets": ready, "models": usable, "fetching": _unready(usable)}
    return render(request, "runs/new.html", context, status=422 if form.errors else 200)


def _unready(usable: list[Any]) -> int:
    return len(models.list_models()) - len(usable)


def _created(request: HttpRequest, form: RunForm) -> Run | None:
    data = form.cleaned_data
    try:
        return runs.create(
            actor(request), name=data["name"], dataset=int(data["dataset"]), model=data["model"],
            profile=data["profile"], priority=data["priority"], config=form.config(),
        )  # fmt: skip
    except InvalidInputError as error:
        form.refuse(error, form.paths())
        return None


def run_page(request: HttpRequest, run_id: int) -> HttpResponse:
    """One run, alive."""
    live = mark(f"run:{run_id}", "models", "jobs")
    run = runs.get(run_id)
    context = {"live": live, **_watch(request, run), "log_lines": _log(run)}
    return render(request, "runs/page.html", context)


def run_part(request: HttpRequest, run_id: int, name: str) -> HttpResponse:
    """One part of the page, drawn anew when something was announced."""
    if name not in PARTS:
        raise NotFoundError(f"A run's page has no part {name!r}.")
    run = runs.get(run_id)
    shown = _energy(run) if name == "energy" else _watch(request, run)  # the former is drawn every few seconds
    return render(request, f"runs/{name}.html", shown)


def _energy(run: Run) -> dict[str, Any]:
    return {"energy": energy.of_run(run), "no_energy": energy.absence(run.job)}


def _watch(request: HttpRequest, run: Run) -> dict[str, Any]:
    made = {model.checkpoint_step: model for model in run.models.all() if model.checkpoint_step is not None}
    active = deployments.active()
    rows = [{**row, "model": made.get(row["step"])} for row in run_facts.checkpoints(run)]
    samples = Sample.objects.filter(run=run)[:SAMPLES_SHOWN]
    result = run.models.filter(source="run", state=ModelState.READY).first()
    engines = [row for row in deployments.list_deployments() if result and row.model_id == result.pk]
    return {
        "run": run, "facts": runs.facts(run), "checkpoints": rows, "samples": samples, "result_model": result,
        "engine": engines[0] if engines else None,
        "active_model": active.model if active else None, "mine": actor(request).may_change(run.created_by),
        "suggested": run_facts.model_name(run), "epochs": _epochs(run), **_energy(run),
    }  # fmt: skip


def _epochs(run: Run) -> float | None:
    """How many epochs the run has; None where its steps are counted instead."""
    hyperparams = run.config["hyperparams"]
    return None if hyperparams["max_steps"] > 0 else hyperparams["num_train_epochs"]


def _log(run: Run) -> list[str]:
    """The end of the run's log; nothing while its host can't be asked (the page says more by itself)."""
    try:
        return logs.component_lines(f"run-{run.pk}", LOG_LINES)
    except PilothouseError:
        return []


@require_POST
def run_stop(request: HttpRequest, run_id: int) -> HttpResponse:
    """Ends a run: `mode` save or now."""
    mode = request.POST.get("mode", "save")
    runs.stop(actor(request), run_id, mode)
    word = "It writes a checkpoint, publishes its model and ends." if mode == "save" else "It ends now."
    messages.info(request, word)
    return redirect("run", run_id=run_id)


@require_POST
def run_pause(request: HttpRequest, run_id: int) -> HttpResponse:
    """Frees the machine and keeps the place."""
    runs.pause(actor(request), run_id)
    messages.info(request, "It writes a checkpoint and pauses.")
    return redirect("run", run_id=run_id)


@require_POST
def run_resume(request: HttpRequest, run_id: int) -> HttpResponse:
    """Goes on from the last checkpoint."""
    runs.resume(actor(request), run_id)
    messages.info(request, "It goes on from its last checkpoint as soon as there is room.")
    return redirect("run", run_id=run_id)


@require_POST
def run_delete(request: HttpRequest, run_id: int) -> HttpResponse:
    """Takes a run off the books."""
    runs.delete(actor(request), run_id)
    messages.success(request, f"Run {run_id} is deleted.")
    return redirect("runs")


@require_POST
def run_register(request: HttpRequest, run_id: int, step: int) -> HttpResponse:
    """Makes a model of a checkpoint."""
    name = request.POST.get("name", "").strip()
    model = runs.register_checkpoint(actor(request), run_id, step, name)
    messages.success(request, f"The checkpoint of step {step} is being made into the model {model.name}.")
    return redirect(reverse("run", args=[run_id]) + "#checkpoints")
