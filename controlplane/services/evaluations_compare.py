"""Two evaluations of the same rows side by side, and all of a dataset in order. Runs in the web process; reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.models import Dataset, Evaluation
from controlplane.models.jobs import Status
from controlplane.services import evaluations, evaluations_log, statistics
from controlplane.services.evaluations import SMALLER_IS_BETTER
from controlplane.services.evaluations_log import PROPORTIONS
from controlplane.services.statistics import CONFIDENCE, Difference

Line = dict[str, Any]
"""A row as its job has logged it."""

CONFIDENCES = (0.5, 0.999)
EXAMPLES_SHOWN = 50
RANKED = 20
WORDS = {
    "accuracy": "accuracy", "exact_match": "exact match", "contains": "contains", "regex": "pattern found",
    "rouge_l": "ROUGE-L", "bleu": "BLEU", "profile_check": "profile check", "loss": "loss", "perplexity": "perplexity",
}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One metric of two evaluations; without a `difference` the sentence says why there is none."""

    metric: str
    difference: Difference | None
    sentence: str
    is_real: bool = False
    first_is_better: bool = False


def compare(first: Evaluation, second: Evaluation, confidence: float = CONFIDENCE) -> list[Compared]:
    """Every metric that both have, over the rows that both have answered.

    Raises ConflictError while one isn't done, InvalidInputError for different datasets.
    """
    if not CONFIDENCES[0] <= confidence <= CONFIDENCES[1]:
        raise InvalidInputError(f"The confidence must lie between {CONFIDENCES[0]} and {CONFIDENCES[1]}.")
    pairs = _pairs(first, second, lines_of(first))
    theirs = evaluations.measured(second)
    metrics = [name for name in evaluations.measured(first) if name in theirs]
    if first.pattern != second.pattern:
        metrics = [name for name in metrics if name != "regex"]
    # Perplexity is the loss in another unit: one of the two is enough.
    names = dict.fromkeys("loss" if name == "perplexity" else name for name in metrics)
    found = [_compared(name, pairs, first.model_name, second.model_name, confidence) for name in names]
    return [item for item in found if item is not None]


def lines_of(row: Evaluation) -> list[Line]:
    """What is logged, in the order of the rows. Raises NotFoundError."""
    return sorted(evaluations_log.read(row), key=lambda value: int(value["row"]))


def _pairs(first: Evaluation, second: Evaluation, mine: Sequence[Line]) -> list[tuple[Line, Line]]:
    """The common rows; `mine` are the lines of `first`."""
    for row in (first, second):
        if row.job.status != Status.DONE:
            raise ConflictError(f"Evaluation {row.pk} is {row.job.status}: only those that are done can be compared.")
    if first.dataset_id is None or first.dataset_id != second.dataset_id:
        raise InvalidInputError(
            f"Evaluation {first.pk} is on {first.dataset_name}, {second.pk} on {second.dataset_name}: "
            "only evaluations on the same dataset can be compared."
        )
    others = {value["row"]: value for value in evaluations_log.read(second)}
    pairs = [(value, others[value["row"]]) for value in mine if value["row"] in others]
    if not pairs:
        raise InvalidInputError(f"Evaluations {first.pk} and {second.pk} have no row in common: ask the same rows.")
    return pairs


def _compared(
    metric: str, pairs: Sequence[tuple[Line, Line]], first: str, second: str, confidence: float
) -> Compared | None:
    """None where no row has the metric."""
    if metric == "loss":
        both = [(a, b) for a, b in pairs if a.get("tokens") and b.get("tokens")]
        if not both:
            return None
        if any(a["tokens"] != b["tokens"] for a, b in both):
            words = f"Their losses can't be compared: {first} and {second} split text into different tokens."
            return Compared(metric, None, words)
        columns = [statistics.column(value["nats"] for value in side) for side in zip(*both, strict=True)]
        tokens = statistics.column(a["tokens"] for a, _ in both)
        difference = statistics.compare_ratios(columns[0], columns[1], tokens, confidence)
        uneven = sum(bool(a.get("tokens")) != bool(b.get("tokens")) for a, b in pairs)
        note = "are left out: just one of the two has a loss there."
    else:
        scored = [(a["scores"][metric], b["scores"][metric]) for a, b in pairs
                  if metric in a["scores"] and metric in b["scores"]]  # fmt: skip
        if not scored:
            return None
        left, right = (statistics.column(side) for side in zip(*scored, strict=True))
        test = statistics.compare_proportions if metric in PROPORTIONS else statistics.compare_means
        difference = test(left, right, confidence)
        uneven = sum(bool(a.get("unanswered")) != bool(b.get("unanswered")) for a, b in pairs)
        note = "count as wrong for the one of the two that could not answer them."
    is_better = difference.size < 0 if metric in SMALLER_IS_BETTER else difference.size > 0
    words = sentence(metric, difference, first, second, confidence)
    words += f" {uneven:,} row{'' if uneven == 1 else 's'} {note}" if uneven else ""
    return Compared(metric, difference, words, difference.is_real(confidence), is_better)


def sentence(metric: str, difference: Difference, first: str, second: str, confidence: float = CONFIDENCE) -> str:
    """Whether the difference is real, in words, with the figures behind it."""
    rows = f"{difference.rows:,} row{'' if difference.rows == 1 else 's'}"
    if difference.size == 0 and difference.p_value == 1:
        return f"{first} and {second} do equally well by {WORDS[metric]} on {rows}."
    interval = difference.interval
    span = f"{_amount(metric, interval.low)} to {_amount(metric, interval.high)}" if interval else "unknown"
    unit = " points" if metric in PROPORTIONS else ""
    figures = (
        f"{_amount(metric, difference.size)}{unit} ({confidence * 100:g} % interval {span}; "
        f"{_p(difference.p_value)} by {difference.test}, {rows})"
    )
    if not difference.is_real(confidence):
        return (
            f"Whether {first} or {second} is better by {WORDS[metric]} can't be told: "
            f"the difference of {figures} may be chance."
        )
    ahead = (difference.size < 0) == (metric in SMALLER_IS_BETTER)
    better, worse = (first, second) if ahead else (second, first)
    return f"{better} is really better than {worse} by {WORDS[metric]}: a difference of {figures}."


def _amount(metric: str, figure: float) -> str:
    """A difference with its sign: points of a hundred, or the figure itself."""
    text = f"{100 * figure:+.1f}" if metric in PROPORTIONS else f"{figure:+.3f}"
    return text.replace("-", "−")


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"


def datasets_with_figures(most: int) -> list[Dataset]:
    """The datasets that something has been evaluated on, the newest first: each has a leaderboard."""
    done = Evaluation.objects.filter(dataset=OuterRef("pk"), job__status=Status.DONE)
    return list(Dataset.objects.filter(Exists(done)).defer("report").order_by("-id")[:most])


def facts(first: Evaluation, second: Evaluation, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """A comparison as the API answers it."""
    return {
        "first": {"id": first.pk, "model_id": first.model_name}, "confidence": confidence,
        "second": {"id": second.pk, "model_id": second.model_name},
        "metrics": [_facts(item) for item in compare(first, second, confidence)],
    }  # fmt: skip


def _facts(item: Compared) -> dict[str, Any]:
    found = item.difference
    interval = found.interval if found is not None else None
    figures = {
        "rows": found.rows, "first": found.first, "second": found.second, "difference": found.size,
        "low": interval.low if interval else None, "high": interval.high if interval else None,
        "p_value": found.p_value, "test": found.test,
    } if found is not None else dict.fromkeys(
        ("rows", "first", "second", "difference", "low", "high", "p_value", "test")
    )  # fmt: skip
    return {"metric": item.metric, **figures, "is_real": item.is_real, "sentence": item.sentence}


def differing(first: Evaluation, second: Evaluation, limit: int = EXAMPLES_SHOWN) -> dict[str, Any]:
    """{"total", "rows": [{"row", "question", "expected", "first", "second"}]}: where just one of the two was right."""
    found = [
        (a, b) for a, b in _pairs(first, second, lines_of(first))
        if a["scores"].get("accuracy") != b["scores"].get("accuracy") and "accuracy" in a["scores"]
    ]  # fmt: skip
    rows = [
        {
            "row": a["row"], "question": a.get("question"), "expected": a.get("expected"),
            "first": evaluations_log.shown(a), "second": evaluations_log.shown(b),
            "first_is_right": a["scores"]["accuracy"] == 1,
        }
        for a, b in found[:limit]
    ]  # fmt: skip
    return {"total": len(found), "rows": rows}


# --- The leaderboard --------------------------------------------------------------------------------------------------


def leaderboards(dataset: Dataset, metric: str = "accuracy") -> list[dict[str, Any]]:
    """A table for each choice of rows: [{"rows", "take", "entries": [{"rank", "evaluation", "figure", "note"}]}].

    Of a model that was evaluated more than once the newest counts. `note` says which entries can't be told from the
    first by a paired test. Raises InvalidInputError.
    """
    if metric not in WORDS:
        raise InvalidInputError(f"There is no metric {metric!r}: choose from {', '.join(WORDS)}.")
    tables: dict[tuple[Any, ...], dict[str, Evaluation]] = {}
    rows = Evaluation.objects.select_related("job", "model", "run", "dataset").filter(
        dataset=dataset, job__status=Status.DONE
    )
    for row in rows.order_by("id"):
        if metric in evaluations.figures(row):
            key = (*row.same_rows, row.pattern if metric == "regex" else "")
            tables.setdefault(key, {})[row.model_name] = row
    ordered = sorted(tables.values(), key=len, reverse=True)
    return [_table(list(table.values()), metric) for table in ordered]


def _table(rows: list[Evaluation], metric: str) -> dict[str, Any]:
    sign = 1 if metric in SMALLER_IS_BETTER else -1
    ranked = sorted(rows, key=lambda row: sign * evaluations.figures(row)[metric]["value"])[:RANKED]
    best = ranked[0]
    try:
        mine: list[Line] | None = lines_of(best) if len(ranked) > 1 else []
    except NotFoundError:
        mine = None
    entries = [
        {
            "rank": place, "evaluation": row, "figure": evaluations.figures(row)[metric],
            "note": "" if row is best else _note(metric, best, mine, row),
        }
        for place, row in enumerate(ranked, start=1)
    ]  # fmt: skip
    return {"rows": best.rows, "take": best.take, "entries": entries}


def _note(metric: str, best: Evaluation, mine: Sequence[Line] | None, row: Evaluation) -> str:
    """`mine` are the lines of the best, None where its log has gone."""
    name = "loss" if metric == "perplexity" else metric
    try:
        pairs = _pairs(best, row, mine) if mine is not None else []
    except (NotFoundError, InvalidInputError):
        pairs = []
    item = _compared(name, pairs, best.model_name, row.model_name, CONFIDENCE)
    if item is None or item.difference is None:
        return "not comparable"
    return "really behind" if item.is_real else "may be as good"
