"""The rows of an evaluation as its job has logged them: figures with intervals, pages of examples. Web process."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import regex

from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.models import Evaluation
from controlplane.services import statistics
from controlplane.services.statistics import Interval


class Figure(TypedDict):
    """A figure and its interval, whose ends are None where one row can't tell them."""

    value: float
    low: float | None
    high: float | None


PAGE_LIMIT = 500
PROPORTIONS = frozenset({"accuracy", "exact_match", "contains", "regex", "profile_check"})
"""Metrics that are 0 or 1 in each row."""

MAX_PATTERN = 500


def regex_fault(pattern: str) -> str:
    """What is wrong with the pattern of the metric `regex`, or nothing."""
    if not pattern:
        return "The metric regex needs a pattern: a regular expression that a good answer matches."
    if len(pattern) > MAX_PATTERN:
        return f"A pattern has at most {MAX_PATTERN} characters."
    try:
        regex.compile(pattern)
    except regex.error as error:
        return f"The pattern is no regular expression: {error}."
    return ""


def path_of(row: Evaluation) -> Path:
    """The log of the last attempt that has one; it holds what earlier ones did. Raises NotFoundError."""
    found = (row.log_path(attempt) for attempt in range(row.job.attempt_count, 0, -1))
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise NotFoundError(f"Evaluation {row.pk} has no log on this machine: it hasn't begun, or was cleaned away.")
    return path


def read(row: Evaluation) -> Iterator[dict[str, Any]]:
    """Every row that is logged, in no order that means anything. Raises NotFoundError."""
    return _lines(path_of(row))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for line in stream:
            try:
                value = json.loads(line)
            except ValueError:  # torn: its job was killed, or is writing it
                continue
            if isinstance(value, dict) and isinstance(value.get("scores"), dict):
                yield value


def page(row: Evaluation, *, offset: int = 0, limit: int = 50, search: str = "", wrong: bool = False) -> dict[str, Any]:
    """{"total", "offset", "rows"}: rows that hold a text, and were not accurate where that is asked.

    There are none before the first row is logged. Raises NotFoundError where the log has gone.
    """
    if offset < 0 or not 1 <= limit <= PAGE_LIMIT:
        raise InvalidInputError(f"offset must be 0 or more, limit between 1 and {PAGE_LIMIT}.")
    wanted = search.strip().casefold()
    total, rows = 0, []
    for value in () if _is_yet_to_begin(row) else read(row):
        if (wrong and not is_wrong(value)) or (wanted and wanted not in _texts(value)):
            continue
        if offset <= total < offset + limit:
            rows.append(shown(value))
        total += 1
    return {"total": total, "offset": offset, "rows": rows}


def _is_yet_to_begin(row: Evaluation) -> bool:
    logs = (row.log_path(attempt) for attempt in range(1, row.job.attempt_count + 1))
    return not row.job.has_ended and not any(path.is_file() for path in logs)


def is_wrong(value: dict[str, Any]) -> bool:
    """Whether a row was answered, and not accurately."""
    return bool(value["scores"].get("accuracy", 1.0) < 1)


def shown(value: dict[str, Any]) -> dict[str, Any]:
    """A logged row as the API answers it; `loss` is in nats a token."""
    tokens, nats = value.get("tokens"), value.get("nats")
    return {
        "row": value["row"], "question": value.get("question"), "expected": value.get("expected"),
        "answer": value.get("answer"), "scores": value["scores"], "faults": value.get("faults", []),
        "finish_reason": value.get("finish_reason"), "error": value.get("error", ""),
        "loss": nats / tokens if tokens and nats is not None else None,
    }  # fmt: skip


def _texts(value: dict[str, Any]) -> str:
    return "\n".join(str(value.get(name) or "") for name in ("question", "expected", "answer")).casefold()


def figures(row: Evaluation) -> dict[str, Figure] | None:
    """{metric: {"value", "low", "high"}} with 95 % intervals; a metric that no row has is left out. None: no log."""
    scores: dict[str, list[float]] = {}
    nats: list[float] = []
    tokens: list[float] = []
    try:
        for value in read(row):
            for name, score in value["scores"].items():
                scores.setdefault(name, []).append(score)
            if value.get("tokens"):
                nats.append(value["nats"])
                tokens.append(value["tokens"])
    except NotFoundError:
        return None
    found = {name: _figure(name, values) for name, values in scores.items()}
    if nats and {"loss", "perplexity"} & set(row.metrics):
        interval = statistics.bootstrap_ratio(statistics.column(nats), statistics.column(tokens))
        loss = _with(sum(nats) / sum(tokens), interval)
        found |= {"loss": loss} if "loss" in row.metrics else {}
        if "perplexity" in row.metrics and (loss["high"] or loss["value"]) < math.log(1e300):
            ends = Interval(math.exp(interval.low), math.exp(interval.high)) if interval is not None else None
            found["perplexity"] = _with(math.exp(loss["value"]), ends)
    return found


def _figure(name: str, values: list[float]) -> Figure:
    column = statistics.column(values)
    interval: Interval | None
    if name in PROPORTIONS:
        interval = statistics.wilson(round(float(column.sum())), len(values))
    else:
        interval = statistics.bootstrap_mean(column)
    return _with(float(column.mean()), interval)


def _with(value: float, interval: Interval | None) -> Figure:
    ends = (None, None) if interval is None else (interval.low, interval.high)
    return {"value": value, "low": ends[0], "high": ends[1]}
