"""The table of runs: its rows, filters, columns and saved views, and what is done to many. Runs in the web process.

Everything that is chosen stands in the address: the back button, a reload and a link to somebody else show the same.
"""

from typing import Any

from django.contrib import messages
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.models import Dataset, LanguageModel, Run, RunTag
from controlplane.pages.actors import actor
from controlplane.pages.many import tell
from controlplane.pages.middleware import referrer
from controlplane.pages.run_cells import cell
from controlplane.pages.tables import OFFERED, TableView
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import run_bulk, run_columns, run_compare, run_table, run_views
from controlplane.services.bulk import Noun
from controlplane.services.run_columns import RunColumn
from controlplane.services.run_table import RunQuestion
from controlplane.services.tables.keyset import Page
from training.config.fields import fields

RUNS = Noun("run", "runs", {})


def run_list(request: HttpRequest) -> HttpResponse:
    """The runs that the address asks for, fifty a page."""
    live = mark("jobs")
    question = run_table.ask(request.GET)
    page = run_table.page(question)
    is_whole = not request.headers.get("HX-Request")
    view = TableView(
        request.GET, question, page, "runs", [run_columns.FIXED[0], *question.columns], kept_names=("column",),
        placeholder="Search names, notes, tags", first="state", offers=_offers() if is_whole else {},
        falls={column.key: True for column in question.columns if run_compare.larger_is_better(column.key)},
    )  # fmt: skip
    context = {"live": live, "table": view, "rows": _rows(question.columns, page.rows)}
    if is_whole:
        return render(request, "runs/list.html", {**context, **_around(request)})
    return render(request, "runs/rows.html", context)


def run_rows(request: HttpRequest) -> HttpResponse:
    """Rows by their numbers (`run`), in the columns of the address: drawn anew when something has become of them."""
    question = run_table.ask(request.GET)
    numbers = [row_id(text) for text in request.GET.getlist("run")]
    found = run_table.some(number for number in numbers if number is not None)
    return render(request, "runs/table_rows.html", {"rows": _rows(question.columns, found)})


def run_column_choices(request: HttpRequest) -> HttpResponse:
    """The columns that the table of the address can have, for the dialog that offers them."""
    question = run_table.ask(request.GET)
    choices = _choices(question, run_table.page(question))
    return render(request, "runs/column_choices.html", {"choices": choices})


def _rows(columns: tuple[RunColumn, ...], runs: list[Run]) -> list[dict[str, Any]]:
    return [{"run": run, "cells": [cell(column, run) for column in columns]} for run in runs]


# --- Around the rows --------------------------------------------------------------------------------------------------


def _around(request: HttpRequest) -> dict[str, Any]:
    who, here = actor(request), run_table.view_of(request.GET)
    saved = run_views.list_views(who)
    views = [{"view": row, "is_current": row.query == here, "mine": row.owner == who.owner} for row in saved]
    return {
        "kept": _kept(request.GET, "column"), "columns_url": f"{reverse('run-columns')}?{request.GET.urlencode()}",
        "views": views, "here": here, "is_view": any(item["is_current"] for item in views),
    }  # fmt: skip


def _kept(params: QueryDict, but: str) -> list[tuple[str, str]]:
    """The parameters that a form keeps as they are, for hidden fields."""
    names = [name for name in run_table.VIEW_PARAMETERS if name != but]
    return [(name, value) for name in names for value in params.getlist(name) if value]


def _offers() -> dict[str, list[str]]:
    """What the filters propose while one types."""
    asked = {
        "model": LanguageModel.objects.filter(_has_runs("model")).values_list("name", flat=True),
        "dataset": Dataset.objects.filter(_has_runs("dataset")).values_list("name", flat=True),
        "profile": Run.objects.values_list("profile", flat=True),
        "group": Run.objects.exclude(group="").values_list("group", flat=True),
        "tag": RunTag.objects.values_list("name", flat=True),
        "started_by": Run.objects.values_list("created_by", flat=True),
    }
    return {name: list(rows.order_by().distinct()[:OFFERED]) for name, rows in asked.items()}


def _has_runs(name: str) -> Exists:
    return Exists(Run.objects.filter(**{name: OuterRef("pk")}))


def _choices(question: RunQuestion, page: Page[Run]) -> list[tuple[str, list[RunColumn]]]:
    """The columns that can be chosen: those that are shown in their order, then the others by what they tell."""
    shown = {column.key for column in question.columns}
    reported = dict.fromkeys([*run_columns.COMMON_METRICS, *run_table.metrics(page)])
    metrics = [f"{run_columns.LAST}{key}" for key in reported]
    rest = [field.path for field in fields() if field.path not in run_columns.COMMON_SETTINGS]
    groups = (
        ("The run", [column.key for column in run_columns.FIXED[1:]]), ("Metrics, their last value", metrics),
        ("Settings", list(run_columns.COMMON_SETTINGS)), ("More settings", rest),
    )  # fmt: skip
    offered = [(title, [run_columns.find(key) for key in keys if key not in shown]) for title, keys in groups]
    return [("Shown", list(question.columns)), *((title, [item for item in found if item]) for title, found in offered)]


# --- Deeds ------------------------------------------------------------------------------------------------------------


@require_POST
def run_many(request: HttpRequest) -> HttpResponse:
    """Does one thing to the runs that were chosen, and tells what was refused and why."""
    numbers = [number for text in request.POST.getlist("run") if (number := row_id(text)) is not None]
    outcome = run_bulk.do(actor(request), request.POST.get("action", ""), numbers, request.POST.get("text", ""))
    tell(request, RUNS, outcome)
    return redirect(referrer(request) or reverse("runs"))


@require_POST
def view_save(request: HttpRequest) -> HttpResponse:
    """Saves what the table shows under a name."""
    row = run_views.save(actor(request), request.POST.get("name", ""), request.POST.get("query", ""))
    messages.success(request, f"The view {row.name} is saved.")
    return redirect(f"{reverse('runs')}?{row.query}")


@require_POST
def view_share(request: HttpRequest, view_id: int) -> HttpResponse:
    """Shows a view to everybody, or no longer."""
    row = run_views.share(actor(request), view_id, request.POST.get("shared") == "yes")
    whose = "for everybody" if row.is_shared else f"for {row.created_by} alone"
    messages.success(request, f"The view {row.name} is there {whose}.")
    return redirect(referrer(request) or reverse("runs"))


@require_POST
def view_delete(request: HttpRequest, view_id: int) -> HttpResponse:
    """Forgets a view."""
    run_views.remove(actor(request), view_id)
    messages.success(request, "The view is deleted; the runs that it showed stay.")
    return redirect("runs")
