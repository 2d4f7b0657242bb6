"""Several runs side by side: curves, settings, last values, scatter, parallel axes. Runs in the web process."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render

from controlplane.models import Run
from controlplane.pages import differences
from controlplane.pages.actors import actor
from controlplane.pages.tags import DASH, figure
from controlplane.pages.topics import mark
from controlplane.services import run_compare
from controlplane.services.run_compare import FEWEST, MOST, MetricRow, SettingRow

NOT_PLOTTED = ("object", "list")
AXES = ("step", "minutes", "clock")
COLOURS = 4
DASHES = ("", "7 3", "2 3", "8 3 2 3", "14 5")
"""How a line is broken, as SVG writes it: so many looks are told apart."""


def compare(request: HttpRequest) -> HttpResponse:
    """The runs of `?runs=`, `?group=` or `?view=`."""
    found = run_compare.chosen(actor(request), request.GET)
    context = {"found": found, "runs": found.runs, "fewest": FEWEST, "most": MOST, "hints": _hints(found)}
    if len(found.runs) < FEWEST:
        return render(request, "runs/compare_none.html", context)
    growing = [run.pk for run in found.runs if not run.job.has_ended]
    context |= {"live": mark(*(f"run:{number}" for number in growing)), "growing": ",".join(map(str, growing))}
    settings, metrics = run_compare.settings(found.runs), run_compare.metrics(found.runs)
    axes = _axes(settings, metrics)
    differing = sum(row.differs for row in settings)
    shows_all = request.GET.get("settings") == "all"
    context |= {
        "settings": _settings([row for row in settings if shows_all or row.differs]), "differing": differing,
        "shows_all": shows_all, "setting_count": len(settings), "metrics": [_metric(row) for row in metrics],
        "keys": [row.key for row in metrics], "numbers": ",".join(str(run.pk) for run in found.runs),
        "plotted": json.dumps({"axes": axes}), "lines": _lines(found.runs), "view": _view(request.GET, axes),
        "all_url": _with(request, settings="all"), "differing_url": _with(request, settings=""),
    }  # fmt: skip
    return render(request, "runs/compare.html", context)


def _with(request: HttpRequest, **changes: str) -> str:
    params = request.GET.copy()
    for name, value in changes.items():
        params.pop(name, None)
        if value:
            params[name] = value
    return f"?{params.urlencode()}"


def _hints(found: run_compare.Chosen) -> list[str]:
    hints = []
    if found.missing:
        hints.append(found.told_missing)
    if found.total > MOST:
        hints.append(f"The first {MOST} of {found.total:,} runs are shown: choose fewer.")
    return hints


def _lines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each run with the look of its line: four colours, then the same ones dashed."""
    return [
        {"run": run, "colour": place % COLOURS + 1, "dash": DASHES[place // COLOURS]} for place, run in enumerate(runs)
    ]


def _view(params: QueryDict, axes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the address has chosen of the charts; what isn't there, or can't be, is as it is at first."""
    metrics = [axis for axis in axes if axis["kind"] == "metric"]
    first = next(
        (axis["key"] for axis in metrics if axis["key"] == "last.eval_loss"), metrics[0]["key"] if metrics else ""
    )

    def one_of(name: str, known: Sequence[str], usual: str) -> str:
        return next((key for key in known if key == params.get(name)), usual)

    keys, titles = [axis["key"] for axis in axes], [axis["title"] for axis in metrics]
    axis = one_of("axis", AXES, AXES[0])
    smooth = params.get("smooth", "")
    return {
        "key": one_of("key", titles, titles[0] if titles else ""), "axes": [(word, word == axis) for word in AXES],
        "smooth": smooth if re.fullmatch(r"0(\.\d{1,2})?", smooth) else "0", "log": params.get("log") == "yes",
        "across": axes, "up": metrics, "px": one_of("px", keys, keys[0] if keys else ""),
        "py": one_of("py", keys, first), "pm": one_of("pm", keys, first),
    }  # fmt: skip


def _settings(rows: Sequence[SettingRow]) -> list[dict[str, Any]]:
    """In words; datasets by name."""
    of_datasets = [row for row in rows if row.field.path in differences.OF_DATASETS]
    names = differences.dataset_names(str(value) for row in of_datasets for value in row.values)
    return [
        {
            "title": differences.title(row.field), "path": row.field.path, "unit": differences.unit(row.field),
            "differs": row.differs,
            "values": [_words(row, value, names) for value in row.values],
        }
        for row in rows
    ]  # fmt: skip


def _words(row: SettingRow, value: Any, names: Mapping[str, str]) -> str:
    return DASH if value is None else differences.words(row.field.path, value, names)


def _metric(row: MetricRow) -> dict[str, Any]:
    values = [(figure(value), place in row.best) for place, value in enumerate(row.values)]
    return {"key": row.key, "values": values}


def _axes(settings: Sequence[SettingRow], metrics: Sequence[MetricRow]) -> list[dict[str, Any]]:
    """What the scatter and the parallel axes are drawn from: settings that differ, and every metric."""
    axes: list[dict[str, Any]] = [
        {"key": row.field.path, "title": differences.title(row.field), "kind": "setting", "values": _plain(row)}
        for row in settings
        if row.differs and row.field.kind not in NOT_PLOTTED
    ]
    axes += [{"key": f"last.{row.key}", "title": row.key, "kind": "metric", "values": row.values} for row in metrics]
    return axes


def _plain(row: SettingRow) -> list[Any]:
    """Values as an axis takes them: numbers, or words."""
    is_number = row.field.kind in ("integer", "number")
    return [
        value if is_number or value is None else differences.words(row.field.path, value, {}) for value in row.values
    ]
