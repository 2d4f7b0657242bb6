"""Generated data: the list, the form, one generation alive, its review, the dataset that it becomes. Web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError, PilothouseError
from controlplane.models import DataGeneration
from controlplane.models.access import Role
from controlplane.models.generated import ReviewState
from controlplane.models.jobs import Status
from controlplane.pages.actors import actor
from controlplane.pages.forms.data_generation import PATHS, DatasetForm, GenerationForm
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import (
    data_generation,
    data_generation_dataset,
    data_generation_rows,
    datasets,
    models,
)
from controlplane.services.tables import generations as asked

DROPPED_WORDS = {
    "check": "failed the profile's check", "duplicate": "exact doubles", "similar": "too alike to a known one",
    "failed": "could not be written", "unreadable": "seeds or texts that make no row",
}  # fmt: skip
STRATEGY_WORDS = {
    "answer": "answers anew", "paraphrase": "questions in other words", "self_instruct": "new questions and answers",
    "regime3": "exact examples by rule",
}  # fmt: skip


def generation_list(request: HttpRequest) -> HttpResponse:
    """The generations that the address asks for."""
    live = mark("jobs", "datasets")
    table = shown(
        request.GET, asked.ask(request.GET), "generations", placeholder="Search names, models, seeds", first="status"
    )  # fmt: skip
    found = table.page.rows
    counted = data_generation.counts(*found)
    rows = [{"generation": row, "job": row.job, "counts": counted[row.pk], "made": _made(row)} for row in found]
    template = "generate/rows.html" if request.headers.get("HX-Request") else "generate/list.html"
    return render(request, template, {"live": live, "table": table, "rows": rows})


def _made(row: DataGeneration) -> int | None:
    """How many examples there are so far; None before the first figure."""
    if row.job.status == Status.DONE and row.job.result is not None:
        examples: int = row.job.result["examples"]
        return examples
    return (row.job.progress or {}).get("done")


def generation_new(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends."""
    usable, ready = models.list_ready(), datasets.list_ready()
    wanted = {name: request.GET[name] for name in ("model", "seeds", "strategy") if name in request.GET}
    if usable:
        wanted.setdefault("model", usable[0].name)
    form = GenerationForm(usable, ready, request.POST or None, initial=wanted)
    if request.method == "POST":
        actor(request).require(Role.USE)
        if form.is_valid() and (made := _created(request, form)) is not None:
            return redirect("generation", generation_id=made.pk)
    context = {"form": form, "models": usable, "datasets": ready}
    return render(request, "generate/new.html", context, status=422 if form.errors else 200)


def _created(request: HttpRequest, form: GenerationForm) -> DataGeneration | None:
    data = form.cleaned_data
    try:
        return data_generation.create(
            actor(request), strategy=data["strategy"], model=data["model"], seeds=row_id(data["seeds"]) or "",
            name=data["name"], review=data["review"], **form.options(),
        )  # fmt: skip
    except InvalidInputError as error:
        form.refuse(error, PATHS)
    except PilothouseError as error:
        form.add_error(None, error.message)
    return None


def generation_page(request: HttpRequest, generation_id: int) -> HttpResponse:
    """One generation: what it has made, what was dropped, and what becomes of it."""
    live = mark("jobs", "datasets")
    row = data_generation.get(generation_id)
    context = {"live": live, **_whole(request, row)}
    if request.headers.get("HX-Request"):
        return render(request, "generate/body.html", context)
    return render(request, "generate/page.html", {**context, **_dataset(row)})


def generation_of_job(request: HttpRequest, job_id: int) -> HttpResponse:
    """The way from a job to its generation."""
    return redirect("generation", generation_id=data_generation.of_job(job_id).pk)


def _whole(request: HttpRequest, row: DataGeneration) -> dict[str, Any]:
    result = row.job.result if row.job.status == Status.DONE else None
    dropped = (result or {}).get("dropped", {})
    return {
        "generation": row, "job": row.job, "result": result, "made": _made(row), "options": row.options,
        "strategy_words": STRATEGY_WORDS[row.strategy], "counts": data_generation.counts(row)[row.pk],
        "dropped": [(DROPPED_WORDS.get(why, why), number) for why, number in dropped.items() if number],
        "mine": actor(request).may_change(row.created_by),
        "retriable": row.job.status in (Status.FAILED, Status.CANCELLED) and row.made_at is None,
    }  # fmt: skip


def generation_dataset(request: HttpRequest, generation_id: int) -> HttpResponse:
    """The part of a generation's page that makes a dataset of it."""
    return render(request, "generate/dataset.html", _dataset(data_generation.get(generation_id)))


def _dataset(row: DataGeneration, form: DatasetForm | None = None) -> dict[str, Any]:
    counts = data_generation.counts(row)[row.pk]
    is_open = row.made_at is None and row.job.has_ended and (row.is_read or not row.review)
    rows = counts["accepted"] if row.review else bool(data_generation.shards(row))
    return {
        "generation": row, "job": row.job, "counts": counts,
        "dataset_form": form or DatasetForm(initial={"name": row.name}),
        "may_make": is_open and bool(rows), "is_open": is_open, "went": _went(row),
    }  # fmt: skip


def generation_became(request: HttpRequest, generation_id: int) -> HttpResponse:
    """The part of a generation's page that shows the dataset that it became."""
    row = data_generation.get(generation_id)
    return render(request, "generate/became.html", {"generation": row, "went": _went(row)})


def _went(row: DataGeneration) -> int | None:
    """How many rows went into the dataset, where that was decided row by row."""
    return row.counts.get("accepted") if row.made_at is not None else None


@require_POST
def generation_make(request: HttpRequest, generation_id: int) -> HttpResponse:
    """Makes the dataset of the accepted rows. A second press finds the one that the first makes."""
    who, row = actor(request), data_generation.get(generation_id)
    form = DatasetForm(request.POST)
    if not form.is_valid():
        live = mark("jobs", "datasets")
        context = {"live": live, **_whole(request, row), **_dataset(row, form)}
        return render(request, "generate/page.html", context, status=422)
    there = reverse("generation", args=[row.pk]) + "#dataset"
    try:
        dataset, is_new = data_generation_dataset.make(
            who, row, name=form.cleaned_data["name"], eval_fraction=form.cleaned_data["eval_fraction"]
        )
    except ConflictError as error:
        messages.info(request, error.message)
        return redirect(there)
    if is_new:
        messages.success(request, f"The dataset {dataset} is made, and is being checked.")
    return redirect(there)


def generation_review(request: HttpRequest, generation_id: int) -> HttpResponse:
    """Row by row: accepted, edited or rejected. review.js reads and sends them through the API."""
    live = mark("jobs")
    row = data_generation.get(generation_id)
    counts = data_generation.counts(row)[row.pk]
    context = {
        "live": live, "generation": row, "job": row.job, "counts": counts,
        "total": sum(counts[state] for state in ReviewState.values), "states": ReviewState.values,
    }  # fmt: skip
    return render(request, "generate/review.html", context)


@require_POST
def generation_accept(request: HttpRequest, generation_id: int) -> HttpResponse:
    """Accepts every row that nobody has decided about."""
    number = data_generation_rows.accept_pending(actor(request), data_generation.get(generation_id))
    messages.success(request, "1 row is accepted." if number == 1 else f"{number:,} rows are accepted.")
    return redirect("generation-review", generation_id=generation_id)


@require_POST
def generation_delete(request: HttpRequest, generation_id: int) -> HttpResponse:
    """Takes a generation off the books."""
    data_generation.delete(actor(request), data_generation.get(generation_id))
    messages.success(request, f"Generation {generation_id} is deleted.")
    return redirect("generations")
