"""The cells of the table of runs, as HTML. Runs in the web process.

A page has four hundred of them and more: written here they take a fifth of the time that a template takes over them.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from controlplane.models import Run
from controlplane.models.jobs import Status
from controlplane.pages.differences import words
from controlplane.pages.numbers import short
from controlplane.pages.tags import DASH, count, duration, figure, moment, tone
from controlplane.services import run_columns
from controlplane.services.run_columns import RunColumn

SHOWN_CHARACTERS = 120
Cell = Callable[[RunColumn, Run, Any], SafeString]


def cell(column: RunColumn, run: Run) -> SafeString:
    """What a column shows of a run."""
    return CELLS.get(column.kind, _text)(column, run, column.value(run))


def _state(_column: RunColumn, run: Run, state: Any) -> SafeString:
    waits = SafeString("")
    if state == Status.PENDING and run.job.waiting_reason:
        waits = format_html('<div class="small breaks">{}</div>', run.job.waiting_reason)
    return format_html(
        '<td><span class="pill strong"><span class="dot {}"></span>{}</span>{}</td>', tone(state), state, waits
    )


def _progress(_column: RunColumn, run: Run, value: Any) -> SafeString:
    step, total = value["step"], value["total_steps"]
    if not total:
        return format_html('<td class="r tight">{}</td>', DASH)
    bar = SafeString("")
    if run.job.status == Status.RUNNING:
        pattern = '<progress class="slim" aria-label="Progress of run {}" max="{}" value="{}"></progress>'
        bar = format_html(pattern, run.pk, total, step)
    return format_html('<td class="r tight">{} / {}{}</td>', count(step), count(total), bar)


def _number(column: RunColumn, _run: Run, value: Any) -> SafeString:
    if column.key.startswith(run_columns.LAST):
        value = figure(value)
    elif isinstance(value, (int, float)):
        value = short(value)
    return format_html('<td class="r" data-label="{}">{}</td>', column.title, DASH if value is None else value)


def _tags(_column: RunColumn, _run: Run, names: Any) -> SafeString:
    home = reverse("runs")
    pills = ((home, quote(name, safe=""), name) for name in names)
    pattern = '<a class="pill quiet" href="{}?tag={}"><bdi>{}</bdi></a>'
    return format_html('<td class="run-tags">{}</td>', format_html_join("", pattern, pills))


def _moment(_column: RunColumn, _run: Run, value: Any) -> SafeString:
    return format_html('<td class="r tight small">{}</td>', moment(value))


def _duration(column: RunColumn, _run: Run, value: timedelta | None) -> SafeString:
    seconds = None if value is None else value.total_seconds()
    return format_html('<td class="r tight small" data-label="{}">{}</td>', column.title, duration(seconds))


def _setting(column: RunColumn, run: Run, value: Any) -> SafeString:
    return _text(column, run, words(column.key, value, {}))


def _text(column: RunColumn, _run: Run, value: Any) -> SafeString:
    if not value and value != 0:
        return SafeString('<td class="breaks"><bdi></bdi></td>')
    if column.key == "group":
        address = f"{reverse('runs')}?group={quote(value, safe='')}"
        return format_html('<td class="breaks"><a href="{}"><bdi>{}</bdi></a></td>', address, value)
    shown = Truncator(value).chars(SHOWN_CHARACTERS)
    return format_html('<td class="breaks" data-label="{}"><bdi>{}</bdi></td>', column.title, shown)


CELLS: dict[str, Cell] = {
    "state": _state, "progress": _progress, "number": _number, "tags": _tags, "moment": _moment,
    "duration": _duration, "setting": _setting,
}  # fmt: skip
