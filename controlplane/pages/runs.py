"""A training run: the page that watches it, and what is done to it. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError, NotFoundError, PilothouseError
from controlplane.models import Run, Sample
from controlplane.models.language_models import ModelState
from controlplane.pages import differences, run_about, run_external
from controlplane.pages.actors import actor
from controlplane.pages.run_opening import opening
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import checkpoints, deployments, energy, going_on, logs, run_facts, run_settings, runs

LOG_LINES = 200
SAMPLES_SHOWN = 500
PARTS = ("head", "checkpoints", "samples", "result", "energy")


def run_page(request: HttpRequest, run_id: int) -> HttpResponse:
    """One run, alive."""
    live = mark(f"run:{run_id}", "models", "jobs")
    run = runs.get(run_id)
    if run.is_external:
        shown = {**run_external.shown(request, run), **run_about.shown(request, run), "opening": opening(run)}
        return render(request, "runs/external.html", {"live": live, **shown})
    context = {
        "live": live, **_watch(request, run), **run_about.shown(request, run), "log_lines": _log(run),
        "opening": opening(run),
    }  # fmt: skip
    return render(request, "runs/page.html", context)


def run_part(request: HttpRequest, run_id: int, name: str) -> HttpResponse:
    """One part of the page, drawn anew when something was announced."""
    run = runs.get(run_id)
    if run.is_external:
        return run_external.part(request, run, name)
    if name not in PARTS:
        raise NotFoundError(f"A run's page has no part {name!r}.")
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
        "main": run_facts.main_key(run), "suggested": run_facts.model_name(run), "epochs": _epochs(run), **_energy(run),
        "differing": _differing(run), "going_on": going_on.offer(run),
    }  # fmt: skip


def _differing(run: Run) -> list[differences.DifferenceRow]:
    """What differs from the run whose settings this one began with; nothing for any other."""
    return differences.rows(run_settings.run_differences(run.based_on, run)) if run.based_on is not None else []


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
    run = runs.stop(actor(request), run_id, mode)
    if run.is_external:
        messages.info(request, "It has ended here: what its script still sends is refused.")
        return redirect("run", run_id=run_id)
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
def run_go_on(request: HttpRequest, run_id: int) -> HttpResponse:
    """Lets a failed run go on from a checkpoint, with a learning rate."""
    step, rate = row_id(request.POST.get("step", "")), request.POST.get("learning_rate", "").strip()
    if step is None:
        raise InvalidInputError("Name the checkpoint by its step: load the page again.")
    try:
        learning_rate = float(rate) if rate else None
    except ValueError:
        raise InvalidInputError(f"The learning rate must be a number, not {rate[:50]!r}.") from None
    going_on.go_on(actor(request), run_id, step, learning_rate)
    messages.info(request, f"It goes on from step {step} as soon as there is room.")
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


@require_POST
def run_keep(request: HttpRequest, run_id: int, step: int) -> HttpResponse:
    """Pins a checkpoint, or no longer."""
    wanted = request.POST.get("keep") == "yes"
    checkpoints.keep(actor(request), runs.get(run_id), step, wanted)
    word = "stays until you unpin it" if wanted else "goes the way of the others again"
    messages.success(request, f"The checkpoint of step {step} {word}.")
    return redirect(reverse("run", args=[run_id]) + "#checkpoints")


@require_POST
def run_discard(request: HttpRequest, run_id: int, step: int) -> HttpResponse:
    """Takes a checkpoint away."""
    checkpoints.delete(actor(request), runs.get(run_id), step)
    messages.success(request, f"The checkpoint of step {step} is deleted.")
    return redirect(reverse("run", args=[run_id]) + "#checkpoints")
