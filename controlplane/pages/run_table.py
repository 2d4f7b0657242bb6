"""The table of runs: its rows, filters, columns and saved views, and what is done to many. Runs in the web process.

Everything that is chosen stands in the address: the back button, a reload and a link to somebody else show the same.
"""

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.models import Dataset, LanguageModel, Run, RunTag
from controlplane.models.jobs import Status
from controlplane.pages.actors import actor
from controlplane.pages.differences import words
from controlplane.pages.middleware import referrer
from controlplane.pages.numbers import short
from controlplane.pages.tags import figure
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import run_bulk, run_columns, run_compare, run_filters, run_table, run_views
from controlplane.services.run_columns import Column
from training.config.fields import fields

PLACE = ("after", "before")
FOLDED = ("model", "dataset", "profile", "group", "tag", "started_by")
"""The filters that stand behind a fold until one of them is used."""

OFFERED = 200
REASONS_SHOWN = 5


def run_list(request: HttpRequest) -> HttpResponse:
    """The runs that the address asks for, fifty a page."""
    live = mark("jobs")
    question = run_table.ask(request.GET)
    page = run_table.page(question)
    context = {"live": live, **_table(request.GET, question, page)}
    if request.headers.get("HX-Request"):
        return render(request, "runs/rows.html", context)
    return render(request, "runs/list.html", {**context, **_around(request, question, page)})


def run_rows(request: HttpRequest) -> HttpResponse:
    """Rows by their numbers (`run`), in the columns of the address: drawn anew when something has become of them."""
    question = run_table.ask(request.GET)
    numbers = [row_id(text) for text in request.GET.getlist("run")]
    found = run_table.some(number for number in numbers if number is not None)
    return render(request, "runs/table_rows.html", {"rows": _rows(question.columns, found)})


def _table(params: QueryDict, question: run_table.Question, page: run_table.Page) -> dict[str, Any]:
    return {
        "rows": _rows(question.columns, page.rows),
        "headers": [_header(params, question, column) for column in _headed(question)],
        "page": page,
        "hints": [fault.message for fault in question.faults], "is_filtered": question.is_filtered,
        "older": _address(params, after=page.after) if page.after else "",
        "newer": _address(params, before=page.before) if page.before else "",
        "is_first": question.cursor is None, "page_rows": run_table.PAGE_ROWS,
    }  # fmt: skip


def _headed(question: run_table.Question) -> list[Column]:
    return [run_columns.FIXED[0], *question.columns]


def _address(params: QueryDict, **changes: str | None) -> str:
    """This address with some parameters changed, empty ones left out; it begins at the first page."""
    changed = params.copy()
    for name in PLACE:
        changed.pop(name, None)
    for name, value in changes.items():
        changed[name] = value or ""
    kept = QueryDict(mutable=True)
    for name, values in changed.lists():
        if filled := [value for value in values if value]:
            kept.setlist(name, filled)
    return f"?{kept.urlencode()}"


def _header(params: QueryDict, question: run_table.Question, column: Column) -> dict[str, Any]:
    """A column's head. A figure is first sorted from large to small, a loss from small to large, as a word is."""
    is_sorted = question.sort.key == column.key
    falls = column.kind in ("moment", "progress", "duration") or run_compare.larger_is_better(column.key) is True
    is_down = not question.is_descending if is_sorted else falls
    url = _address(params, sort=f"-{column.key}" if is_down else column.key) if column.order is not None else ""
    order = ("descending" if question.is_descending else "ascending") if is_sorted else ""
    return {"column": column, "url": url, "order": order}


def _rows(columns: tuple[Column, ...], runs: list[Run]) -> list[dict[str, Any]]:
    return [{"run": run, "cells": [_cell(column, run) for column in columns]} for run in runs]


def _cell(column: Column, run: Run) -> dict[str, Any]:
    value = column.value(run)
    if column.key.startswith(run_columns.LAST):
        value = figure(value)
    elif column.kind == "number":
        value = short(value) if isinstance(value, (int, float)) else value
    elif column.kind == "setting":
        value = words(column.key, value, {})
    elif isinstance(value, timedelta):
        value = value.total_seconds()
    return {"column": column, "value": value}


# --- Around the rows --------------------------------------------------------------------------------------------------


def _around(request: HttpRequest, question: run_table.Question, page: run_table.Page) -> dict[str, Any]:
    params, who = request.GET, actor(request)
    typed = {name: params.get(name, "") for name in run_filters.NAMES}
    here = run_table.view_of(params)
    saved = run_views.list_views(who)
    views = [{"view": row, "is_current": row.query == here, "mine": row.owner == who.owner} for row in saved]
    return {
        "typed": typed, "states": [(word, word in params.getlist("state")) for word in Status.values],
        "folded": [(name, run_filters.RunFilters.base_filters[name].label, typed[name]) for name in FOLDED],
        "active": _active(params), "offers": _offers(), "choices": _choices(question, page),
        "kept": _kept(params, "column"),
        "kept_beside_filters": _kept(params, *run_filters.NAMES, "sort"), "sorts": _sorts(question),
        "views": views, "here": here, "is_view": any(item["is_current"] for item in views),
    }  # fmt: skip


def _kept(params: QueryDict, *but: str) -> list[tuple[str, str]]:
    """The parameters that a form keeps as they are, for hidden fields."""
    names = [name for name in run_table.VIEW_PARAMETERS if name not in but]
    return [(name, value) for name in names for value in params.getlist(name) if value]


def _active(params: QueryDict) -> list[dict[str, str]]:
    """Each filter that is on, and the address without it."""
    on = {name: ", ".join(filter(None, params.getlist(name))) for name in run_filters.NAMES}
    labels = {name: str(item.label) for name, item in run_filters.RunFilters.base_filters.items()}
    return [
        {"label": labels[name], "text": text, "url": _address(params, **{name: None})}
        for name, text in on.items()
        if text
    ]


def _offers() -> dict[str, list[str]]:
    """What the filters propose while one types."""
    asked = {
        "model": LanguageModel.objects.exclude(runs_from=None).values_list("name", flat=True),
        "dataset": Dataset.objects.exclude(runs=None).values_list("name", flat=True),
        "profile": Run.objects.values_list("profile", flat=True),
        "group": Run.objects.exclude(group="").values_list("group", flat=True),
        "tag": RunTag.objects.values_list("name", flat=True),
        "started_by": Run.objects.values_list("created_by", flat=True),
    }
    return {name: list(rows.order_by().distinct()[:OFFERED]) for name, rows in asked.items()}


def _choices(question: run_table.Question, page: run_table.Page) -> list[tuple[str, list[Column]]]:
    """The columns that can be chosen: those that are shown in their order, then the others by what they tell."""
    shown = {column.key for column in question.columns}
    metrics = [f"{run_columns.LAST}{key}" for key in dict.fromkeys([*run_columns.COMMON_METRICS, *page.metrics])]
    rest = [field.path for field in fields() if field.path not in run_columns.COMMON_SETTINGS]
    groups = (
        ("The run", [column.key for column in run_columns.FIXED[1:]]), ("Metrics, their last value", metrics),
        ("Settings", list(run_columns.COMMON_SETTINGS)), ("More settings", rest),
    )  # fmt: skip
    offered = [(title, [run_columns.find(key) for key in keys if key not in shown]) for title, keys in groups]
    return [("Shown", list(question.columns)), *((title, [item for item in found if item]) for title, found in offered)]


def _sorts(question: run_table.Question) -> list[tuple[str, str, bool]]:
    """Orders by a word, what each is called, and whether it is the present one; for where there is no head to click."""
    columns = (*_headed(question), question.sort, run_columns.find("created"))
    found = []
    for column in {column.key: column for column in columns if column}.values():
        if column.order is not None:
            up, down = ("oldest", "newest") if column.kind == "moment" else ("up", "down")
            found += [(column.key, f"{column.title}, {up}"), (f"-{column.key}", f"{column.title}, {down}")]
    return [(key, title, key == question.sort_word) for key, title in found]


# --- Deeds ------------------------------------------------------------------------------------------------------------


@require_POST
def run_many(request: HttpRequest) -> HttpResponse:
    """Does one thing to the runs that were chosen, and tells what was refused and why."""
    numbers = [number for text in request.POST.getlist("run") if (number := row_id(text)) is not None]
    outcome = run_bulk.do(actor(request), request.POST.get("action", ""), numbers, request.POST.get("text", ""))
    if outcome.done:
        messages.success(request, f"{_count(outcome.done)} {outcome.word}.")
    for reason, refused in list(outcome.reasons().items())[:REASONS_SHOWN]:
        messages.error(request, f"{_count(refused)} left alone. {reason}")
    if (others := len(outcome.reasons()) - REASONS_SHOWN) > 0:
        messages.error(request, f"{others} more were left alone for reasons of their own.")
    return redirect(referrer(request) or reverse("runs"))


def _count(numbers: list[int]) -> str:
    return f"Run {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} runs"


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
