"""What keys and people have used, by day, caller and model. Runs in the web process."""

import json

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.models.access import Role
from controlplane.pages.actors import actor
from controlplane.services import usage

RANGES = (7, 30, 90, 365)
ROWS_SHOWN = 200
"""Callers and models with the most tokens; the file has them all."""

MOST_MODELS = 4
"""As many have a colour of their own in the chart; the rest is one more."""


def _days(request: HttpRequest) -> int:
    asked = request.GET.get("days", "")
    return int(asked) if asked in map(str, RANGES) else 30


def usage_page(request: HttpRequest) -> HttpResponse:
    """The sums, the chart by day and the table by caller and model."""
    actor(request).require(Role.ADMIN)
    days = _days(request)
    question = usage.Question.of_days(days)
    rows = usage.totals(question, "caller", "key_number", "model")
    rows.sort(key=lambda row: -(row["prompt_tokens"] + row["completion_tokens"]))
    context = {
        "tab": "usage", "days": days, "ranges": RANGES, "total": usage.totals(question)[0], "rows": rows[:ROWS_SHOWN],
        "more": max(0, len(rows) - ROWS_SHOWN),
        "chart": json.dumps(_chart(question)),
    }  # fmt: skip
    return render(request, "models/usage.html", context)


def _chart(question: usage.Question) -> dict[str, object]:
    """Tokens by day of the models that had most; the days without any are there too."""
    by_model: dict[str, dict[str, int]] = {}
    for row in usage.totals(question, "model", "day"):
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        by_model.setdefault(row["model"], {})[row["day"].isoformat()] = tokens
    ranked = sorted(by_model, key=lambda name: -sum(by_model[name].values()))
    shown = {name: by_model[name] for name in ranked[:MOST_MODELS]}
    for name in ranked[MOST_MODELS:]:
        rest = shown.setdefault("others", {})
        for day, tokens in by_model[name].items():
            rest[day] = rest.get(day, 0) + tokens
    return {"first": question.first.isoformat(), "last": question.last.isoformat(), "models": shown}


def usage_csv(request: HttpRequest) -> HttpResponse:
    """The rows by day as a file."""
    actor(request).require(Role.ADMIN)
    days = _days(request)
    return HttpResponse(
        usage.as_csv(usage.Question.of_days(days)), content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="usage-{days}-days.csv"'},
    )  # fmt: skip
