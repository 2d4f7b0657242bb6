"""Evaluations: the list, the form, one of them alive, two side by side, a dataset's leaderboard. Web process."""

import json
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError, NotFoundError, PilothouseError
from controlplane.models import Evaluation
from controlplane.models.access import Role
from controlplane.models.jobs import Status
from controlplane.pages.actors import actor
from controlplane.pages.forms.evaluations import EvaluationForm
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import (
    datasets,
    evaluations,
    evaluations_compare,
    evaluations_log,
    evaluations_promotion,
    models,
    runs,
)
from controlplane.services.evaluations_compare import WORDS
from controlplane.services.evaluations_log import PROPORTIONS, Figure
from controlplane.services.statistics import Interval
from controlplane.services.tables import evaluations as asked

BOARDS_SHOWN = 20
EXAMPLES_SHOWN = 25
OTHERS_OFFERED = 30
UNSURE = "one row can't tell how sure"
SCALE = 240
"""The width of the line on which an interval is drawn."""


def evaluation_list(request: HttpRequest) -> HttpResponse:
    """The evaluations that the address asks for."""
    live = mark("jobs")
    table = shown(
        request.GET, asked.ask(request.GET), "evaluations", placeholder="Search names, models, datasets", first="status"
    )  # fmt: skip
    context = {
        "live": live, "table": table, "rows": [_row(row) for row in table.page.rows],
        "boards": evaluations_compare.datasets_with_figures(BOARDS_SHOWN),
    }  # fmt: skip
    template = "evaluate/rows.html" if request.headers.get("HX-Request") else "evaluate/list.html"
    return render(request, template, context)


def _row(row: Evaluation) -> dict[str, Any]:
    return {"evaluation": row, "job": row.job, "card": headline(row), "result": row.job.result}


def headline(row: Evaluation) -> dict[str, Any] | None:
    """The first figure of an evaluation as it is shown; None where it has none yet."""
    cards = _cards(row)
    return cards[0] if cards else None


def evaluation_new(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends."""
    usable, ready = models.list_ready(), datasets.list_ready()
    wanted = {name: request.GET[name] for name in ("model", "dataset") if name in request.GET}
    form = EvaluationForm(usable, ready, request.POST or None, initial=wanted)
    if request.method == "POST":
        actor(request).require(Role.USE)
        if form.is_valid() and (made := _created(request, form)) is not None:
            return redirect("evaluation", evaluation_id=made.pk)
    context = {"form": form, "models": usable, "datasets": ready}
    return render(request, "evaluate/new.html", context, status=422 if form.errors else 200)


def _created(request: HttpRequest, form: EvaluationForm) -> Evaluation | None:
    data = form.cleaned_data
    try:
        return evaluations.create(
            actor(request), model=data["model"], dataset=int(data["dataset"]), name=data["name"], rows=data["rows"],
            metrics=data["metrics"], max_samples=data["max_samples"], max_tokens=data["max_tokens"],
            pattern=data["pattern"], keep_texts=data["keep_texts"],
        )  # fmt: skip
    except InvalidInputError as error:
        form.refuse(error)
    except PilothouseError as error:
        form.add_error(None, error.message)
    return None


def evaluation_page(request: HttpRequest, evaluation_id: int) -> HttpResponse:
    """One evaluation: its figures, and what was answered to each row."""
    live = mark("jobs", "models")
    row = evaluations.get(evaluation_id)
    context = {"live": live, **_whole(request, row)}
    if request.headers.get("HX-Request"):
        return render(request, "evaluate/body.html", context)
    return render(request, "evaluate/page.html", {**context, **_examples(request, row), **_promotions(row)})


def evaluation_of_job(request: HttpRequest, job_id: int) -> HttpResponse:
    """The way from a job to its evaluation."""
    return redirect("evaluation", evaluation_id=evaluations.of_job(job_id).pk)


def _whole(request: HttpRequest, row: Evaluation) -> dict[str, Any]:
    others = [
        other for other in evaluations.list_evaluations(200, dataset=row.dataset)
        if other.pk != row.pk and other.job.status == Status.DONE
    ][:OTHERS_OFFERED] if row.dataset is not None else []  # fmt: skip
    return {
        "evaluation": row, "job": row.job, "cards": _cards(row), "result": row.job.result, "others": others,
        "warning": evaluations.warning(row), "mine": actor(request).may_change(row.created_by),
        "is_done": row.job.status == Status.DONE, "words": [WORDS[metric] for metric in row.metrics],
        "retriable": row.job.status in (Status.FAILED, Status.CANCELLED),
    }  # fmt: skip


def _cards(row: Evaluation) -> list[dict[str, Any]]:
    """The figures as they are shown, with the interval as words and as a line."""
    found = evaluations.figures(row)
    return [card(metric, found[metric]) for metric in evaluations.measured(row) if metric in found]


def card(metric: str, figure: Figure) -> dict[str, Any]:
    """One figure as a page shows it, with its interval in words (`span`) and, where it has one, as a line."""
    is_share = metric in PROPORTIONS
    value, low, high = figure["value"], figure["low"], figure["high"]
    known = None if low is None or high is None else {"value": value, "low": low, "high": high}
    return {
        "metric": metric, "title": WORDS[metric], "value": _text(value, is_share),
        "span": f"{_text(known['low'], is_share)} to {_text(known['high'], is_share)}" if known else UNSURE,
        "unit": "%" if is_share else "nats a token" if metric == "loss" else "",
        "line": {name: round(SCALE * end, 1) for name, end in known.items()}
        if known and metric not in ("loss", "perplexity") else None,
    }  # fmt: skip


def _text(value: float, is_share: bool) -> str:
    return f"{100 * value:.1f}" if is_share else f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def evaluation_examples(request: HttpRequest, evaluation_id: int) -> HttpResponse:
    """A page of the log, by what the filter says."""
    row = evaluations.get(evaluation_id)
    return render(request, "evaluate/examples.html", {"evaluation": row, **_examples(request, row)})


def _examples(request: HttpRequest, row: Evaluation) -> dict[str, Any]:
    search, wrong = request.GET.get("search", "")[:200], request.GET.get("wrong") == "yes"
    offset = row_id(request.GET.get("offset", "")) or 0
    try:
        page = evaluations_log.page(row, offset=offset, limit=EXAMPLES_SHOWN, search=search, wrong=wrong)
    except NotFoundError as error:
        return {"examples": None, "no_examples": error.message, "search": search, "wrong": wrong}
    last = page["offset"] + len(page["rows"])
    return {
        "examples": page, "search": search, "wrong": wrong, "first": page["offset"] + 1, "last": last,
        "before": max(0, offset - EXAMPLES_SHOWN) if offset else None,
        "after": last if last < page["total"] else None, "metric_words": WORDS,
    }  # fmt: skip


def evaluation_compare(request: HttpRequest) -> HttpResponse:
    """Two evaluations side by side: in words, in figures, and where they differ."""
    first, second = (evaluations.get(_id(request, name)) for name in ("first", "second"))
    found = evaluations_compare.compare(first, second)
    context = {
        "first": first, "second": second, "compared": [_compared(item) for item in found],
        "differing": evaluations_compare.differing(first, second),
        "is_same_rows": first.same_rows == second.same_rows,
    }  # fmt: skip
    return render(request, "evaluate/compare.html", context)


def _id(request: HttpRequest, name: str) -> int:
    number = row_id(request.GET.get(name, ""))
    if number is None:
        raise InvalidInputError("Name two evaluations by their numbers: choose them on the page of one.")
    return number


def _compared(item: evaluations_compare.Compared) -> dict[str, Any]:
    found = item.difference
    if found is None:
        return {"title": WORDS[item.metric], "sentence": item.sentence, "figures": None, "tone": "idle"}
    is_share = item.metric in PROPORTIONS
    figures = {
        "first": _text(found.first, is_share), "second": _text(found.second, is_share),
        "size": _signed(found.size, is_share), "span": _span(found.interval, is_share),
        "unit": " %" if is_share else "", "rows": found.rows, "p": found.p_value,
    }  # fmt: skip
    tone = ("ok" if item.first_is_better else "warn") if item.is_real else "idle"
    return {"title": WORDS[item.metric], "sentence": item.sentence, "figures": figures, "tone": tone}


def _span(interval: Interval | None, is_share: bool) -> str:
    if interval is None:
        return UNSURE
    return f"{_signed(interval.low, is_share)} to {_signed(interval.high, is_share)}"


def _signed(value: float, is_share: bool) -> str:
    return (f"{100 * value:+.1f}" if is_share else f"{value:+.3f}").replace("-", "−")


def leaderboard(request: HttpRequest, dataset_id: int) -> HttpResponse:
    """A dataset's models, the best first."""
    dataset = datasets.get(dataset_id)
    metric = request.GET.get("metric", "accuracy")
    tables = evaluations_compare.leaderboards(dataset, metric)
    for table in tables:
        for entry in table["entries"]:
            entry["card"] = card(metric, entry["figure"])
    context = {"dataset": dataset, "tables": tables, "metric": metric, "metrics": list(WORDS.items())}
    return render(request, "evaluate/leaderboard.html", context)


def evaluation_promotions(request: HttpRequest, evaluation_id: int) -> HttpResponse:
    """The part of an evaluation's page that shows what became of its promotions."""
    return render(request, "evaluate/promotions.html", _promotions(evaluations.get(evaluation_id)))


def _promotions(row: Evaluation) -> dict[str, Any]:
    active = models.active()
    is_active = active is not None and row.model_id == active.pk
    return {
        "evaluation": row, "active": active, "is_active": is_active,
        "may_beat": row.job.status == Status.DONE and active is not None and not is_active and row.dataset is not None,
        "promotions": evaluations_promotion.list_promotions(candidate=row),
        "promotable": [(name, WORDS[name]) for name in evaluations.measured(row)],
        "confidences": [("0.8", "80 %"), ("0.9", "90 %"), ("0.95", "95 %"), ("0.99", "99 %")],
    }  # fmt: skip


@require_POST
def evaluation_promote(request: HttpRequest, evaluation_id: int) -> HttpResponse:
    """Activates what was evaluated if it beats the active model."""
    row = evaluations.get(evaluation_id)
    try:
        confidence = float(request.POST.get("confidence", "0.95"))
    except ValueError:
        raise InvalidInputError("The confidence is a number, such as 0.95: load the page again.") from None
    made = evaluations_promotion.promote(
        actor(request), row, metric=request.POST.get("metric", "accuracy"), confidence=confidence
    )
    messages.info(request, f"{row.model_name} is activated if it beats {made.champion.model_name}.")
    return redirect(reverse("evaluation", args=[evaluation_id]) + "#promotions")


@require_POST
def evaluation_delete(request: HttpRequest, evaluation_id: int) -> HttpResponse:
    """Takes an evaluation off the books."""
    evaluations.delete(actor(request), evaluation_id)
    messages.success(request, f"Evaluation {evaluation_id} is deleted.")
    return redirect("evaluations")


def run_evaluations(request: HttpRequest, run_id: int) -> HttpResponse:
    """The part of a run's page that shows what its checkpoints came to."""
    run = runs.get(run_id)
    found = evaluations.of_run(run)
    there = set(run.checkpoints.filter(gone_at=None).values_list("step", flat=True))
    failed = (Status.FAILED, Status.CANCELLED)
    open_steps = {step for step in there if step not in found or found[step].job.status in failed}
    rows = [{"step": step, **_row(found[step]), "cards": _cards(found[step])} for step in sorted(found, reverse=True)]
    context = {
        "run": run, "rows": rows, "open": len(open_steps), "has_checkpoints": bool(there), "points": _points(found),
    }  # fmt: skip
    return render(request, "evaluate/of_run.html", context)


def _points(found: dict[int, Evaluation]) -> str:
    """The accuracy of each checkpoint in percent with its interval, for the chart; nothing while there is none."""
    figures = {step: evaluations.figures(found[step]).get("accuracy") for step in sorted(found)}
    points = [
        {"step": step, "value": 100 * figure["value"], "low": 100 * figure["low"], "high": 100 * figure["high"]}
        for step, figure in figures.items()
        if figure is not None and figure["low"] is not None and figure["high"] is not None
    ]
    return json.dumps(points) if points else ""


@require_POST
def run_evaluate(request: HttpRequest, run_id: int) -> HttpResponse:
    """Queues the evaluation of every checkpoint that hasn't been evaluated."""
    made = evaluations.evaluate_checkpoints(actor(request), runs.get(run_id), max_samples=200)
    word = "1 checkpoint is" if len(made) == 1 else f"{len(made)} checkpoints are"
    messages.info(request, f"{word} evaluated on what the run holds out, as soon as there is room.")
    return redirect(reverse("run", args=[run_id]) + "#evaluations")
