"""Datasets: the list, uploading, the report, the preview. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.models import Dataset
from controlplane.models.datasets import DatasetStatus, Level
from controlplane.pages.actors import actor
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.row_ids import row_id
from controlplane.services import dataset_checks, dataset_intake, datasets, lineage, settings
from controlplane.services.tables import datasets as asked
from training.profiles.base import profile_names

PREVIEW_ROWS = 10
SHOWN_CHARACTERS = 1_500
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 400, 100


def dataset_list(request: HttpRequest) -> HttpResponse:
    """The datasets that the address asks for."""
    live = mark("datasets")
    table = shown(
        request.GET, asked.ask(request.GET), "datasets", placeholder="Search names and files", first="status"
    )  # fmt: skip
    context = {"live": live, "table": table, "rows": table.page.rows}
    template = "datasets/rows.html" if request.headers.get("HX-Request") else "datasets/list.html"
    return render(request, template, context)


def dataset_upload(request: HttpRequest) -> HttpResponse:
    """The form; upload.js sends the file in parts through the API."""
    context = {
        "max_bytes": settings.get("uploads.max_bytes"), "suffixes": ",".join(dataset_intake.SUFFIXES),
        "parents": datasets.list_datasets()[:500], "generators": lineage.generators(),
    }  # fmt: skip
    return render(request, "datasets/upload.html", context)


def dataset_generators(request: HttpRequest) -> HttpResponse:
    """Whose data fails most."""
    rows = [
        {**item, "percent": None if (share := item["failed_fraction"]) is None else f"{100 * share:.2f}"}
        for item in lineage.generators()
    ]
    return render(request, "datasets/generators.html", {"rows": rows})


def dataset_page(request: HttpRequest, dataset_id: int) -> HttpResponse:
    """One dataset: how it stands, what was found, what is in it."""
    live = mark("datasets")
    dataset = datasets.get(dataset_id)
    report = dataset.report or {}
    context = {
        "live": live, "dataset": dataset, "report": report, "tokens": report.get("tokens"),
        "bars": _bars(report), "mine": actor(request).may_change(dataset.created_by),
        "deep_tables": _deep_tables(report), "runs": dataset.runs.order_by("-id")[:10],
        "balance": _balance(report), "checks": _checks(dataset), "children": lineage.children(dataset),
        **_preview(dataset, _offset(request)),
    }  # fmt: skip
    template = "datasets/body.html" if request.headers.get("HX-Request") else "datasets/page.html"
    return render(request, template, context)


def dataset_preview(request: HttpRequest, dataset_id: int) -> HttpResponse:
    """Ten rows from `offset` on."""
    dataset = datasets.get(dataset_id)
    return render(request, "datasets/preview.html", {"dataset": dataset, **_preview(dataset, _offset(request))})


def _offset(request: HttpRequest) -> int:
    """The row to begin with, from 0; `row` names one from 1, as findings do."""
    text, row = request.GET.get("offset", "0"), request.GET.get("row", "")
    if row.isdecimal() and len(row) < 12:
        return max(0, int(row) - 1)
    return int(text) if text.isdecimal() and len(text) < 12 else 0


def _preview(dataset: Dataset, offset: int) -> dict[str, Any]:
    try:
        found = datasets.preview(dataset, offset, PREVIEW_ROWS)
    except ConflictError as error:
        return {"preview": None, "preview_reason": error.message}
    total = found["total"] or 0
    following = offset + PREVIEW_ROWS
    rows = [{"number": offset + index + 1, **_shown(row)} for index, row in enumerate(found["rows"])]
    return {
        "preview": rows, "total": total, "first": offset + 1, "last": offset + len(rows),
        "before": max(0, offset - PREVIEW_ROWS) if offset else None, "after": following if following < total else None,
    }  # fmt: skip


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose texts are cut where a page would become endless; `beyond` is what is left out, in characters."""
    if "messages" not in row:
        return {"text": row["text"][:SHOWN_CHARACTERS], "beyond": max(0, len(row["text"]) - SHOWN_CHARACTERS)}
    turns = [
        {
            "role": message["role"], "content": message["content"][:SHOWN_CHARACTERS],
            "beyond": max(0, len(message["content"]) - SHOWN_CHARACTERS),
        }
        for message in row["messages"]
    ]  # fmt: skip
    return {"messages": turns}


def _balance(report: dict[str, Any]) -> list[dict[str, Any]]:
    """How much of the text each role says: messages, characters, share in percent."""
    characters = report.get("role_characters") or {}
    total = sum(characters.values())
    return [
        {
            "role": role,
            "messages": report["roles"].get(role),
            "characters": count,
            "percent": round(100 * count / total),
        }
        for role, count in sorted(characters.items(), key=lambda item: -item[1])
        if total
    ]


def _checks(dataset: Dataset) -> dict[str, Any]:
    """What the form of further checks offers, and whether one is under way."""
    ready = Dataset.objects.filter(status=DatasetStatus.READY).exclude(pk=dataset.pk).defer("report")
    return {
        "is_busy": dataset.job is not None and not dataset.job.has_ended, "job": dataset.job,
        "profiles": profile_names(), "others": ready[:200],
    }  # fmt: skip


def _deep_tables(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What the level deep has found, by its title."""
    deep = report.get("deep") or {}
    titles = {
        "leaks": "Answers in their own question", "near_duplicates": "Nearly double",
        "evaluation": "In the evaluation set too", "profile": "Faults of the profile",
    }  # fmt: skip
    return [(title, deep[key]) for key, title in titles.items() if key in deep]


def _bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The histogram of tokens as rectangles of a picture of 400 by 100."""
    bins = (report.get("tokens") or {}).get("histogram") or []
    highest = max((item["count"] for item in bins), default=0)
    if not highest:
        return []
    width = HISTOGRAM_WIDTH / len(bins)
    bars = []
    for index, item in enumerate(bins):
        height = HISTOGRAM_HEIGHT * item["count"] / highest
        bars.append({
            "x": round(index * width + 1, 2), "y": round(HISTOGRAM_HEIGHT - height, 2), "width": round(width - 2, 2),
            "height": round(height, 2), "count": item["count"], "from": item["from_tokens"], "to": item["to_tokens"],
        })  # fmt: skip
    return bars


@require_POST
def dataset_validate(request: HttpRequest, dataset_id: int) -> HttpResponse:
    """Checks a dataset once more, or more deeply."""
    dataset = datasets.get(dataset_id)
    level = request.POST.get("level", "")
    deep = level == Level.DEEP
    held = request.POST.get("eval_dataset", "") if deep else ""
    try:
        dataset_checks.validate(
            actor(request), dataset, level, profile=request.POST.get("profile", "") if deep else "",
            eval_dataset=row_id(held),
        )  # fmt: skip
    except (ConflictError, InvalidInputError) as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{dataset} is being checked ({level}).")
    return redirect("dataset", dataset_id)


@require_POST
def dataset_delete(request: HttpRequest, dataset_id: int) -> HttpResponse:
    """Takes a dataset and its files away."""
    dataset = datasets.get(dataset_id)
    datasets.delete(actor(request), dataset_id)
    messages.success(request, f"The dataset {dataset} is deleted.")
    return redirect("datasets")
