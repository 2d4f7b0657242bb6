"""Several runs side by side: the settings that differ, and what each came to. Runs in the web process; reads only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict

from controlplane.errors import FieldFault, InvalidInputError, NotFoundError
from controlplane.models import Run
from controlplane.models.access import Actor
from controlplane.row_ids import row_id
from controlplane.services import curve_reading, run_table, run_views
from controlplane.services.tables import keyset
from training.config.difference import OF_THE_RUN, flattened
from training.config.fields import FieldInfo, Kind, fields

FEWEST, MOST = 2, 20
OWN = "own"
"""The section of settings that are a script's own."""

NAMED = 5
LARGER = ("accuracy", "exact_match", "f1", "bleu", "rouge", "reward", "per_second", "contains", "precision", "recall")
SMALLER = ("loss", "perplexity", "error", "wer", "cer")
"""Words in a metric's name that say which of its values is the better one; of others nobody knows."""


@dataclass(frozen=True)
class Chosen:
    """The runs that are compared. `total`: how many the address means; `missing`: numbers that are nobody's."""

    runs: list[Run]
    total: int
    missing: tuple[int, ...] = ()

    @property
    def told_missing(self) -> str:
        """Which runs aren't there; of many the first."""
        more = len(self.missing) - NAMED
        named = ", ".join(map(str, self.missing[:NAMED])) + (f" (and {more} more)" if more > 0 else "")
        return f"There is no run {named}."


@dataclass(frozen=True)
class SettingRow:
    """One setting with the value of each run, None where a run has no such setting."""

    field: FieldInfo
    values: tuple[Any, ...]
    differs: bool


@dataclass(frozen=True)
class MetricRow:
    """The last value of one metric in each run, None where it reports none.

    `best` are the places of the best ones; none where it isn't known which way is better, or all are equal.
    """

    key: str
    values: tuple[float | str | None, ...]
    best: frozenset[int]


def chosen(actor: Actor, params: QueryDict) -> Chosen:
    """The runs of an address: `runs` (numbers with commas between), else `view`, else `group`; at most MOST of them.

    Raises InvalidInputError for what names no runs at all, NotFoundError for a view that isn't there.
    """
    if text := ",".join(params.getlist("runs")):
        words = [word.strip() for word in text.split(",") if word.strip()]
        numbers = [row_id(word) for word in words]
        if None in numbers:
            raise InvalidInputError(
                "The runs to compare are numbers with commas between them: ?runs=3,4.", (FieldFault("runs", "numbers"),)
            )
        wanted = list(dict.fromkeys(number for number in numbers if number is not None))
        if len(wanted) > keyset.MOST_ROWS:
            raise InvalidInputError(
                f"{len(wanted):,} runs are named; at most {MOST} are compared. Choose those that matter.",
                (FieldFault("runs", f"{FEWEST} to {MOST}"),),
            )
        found = run_table.some(wanted)
        known = {run.pk for run in found}
        missing = tuple(number for number in wanted if number not in known)
        return Chosen(found[:MOST], len(found), missing)
    asked = QueryDict(mutable=True)
    if view := params.get("view"):
        number = row_id(view)
        if number is None:
            raise NotFoundError(f"There is no saved view {view[:60]!r}.")
        asked = QueryDict(run_views.get(actor, number).query, mutable=True)
    elif group := params.get("group"):
        asked["group"] = group
    else:
        return Chosen([], 0)
    page = run_table.page(run_table.ask(asked), MOST)
    return Chosen(page.rows, page.count)


def required(actor: Actor, params: QueryDict) -> list[Run]:
    """The same for a script: raises where it isn't FEWEST to MOST runs that are all there."""
    found = chosen(actor, params)
    if found.missing:
        raise NotFoundError(found.told_missing)
    if not FEWEST <= found.total <= MOST:
        raise InvalidInputError(
            f"{FEWEST} to {MOST} runs are compared, not {found.total}.", (FieldFault("runs", f"{FEWEST} to {MOST}"),)
        )
    return found.runs


def settings(compared: Sequence[Run]) -> list[SettingRow]:
    """Every setting in the order of the schema, then what scripts elsewhere told of theirs, with whether the runs that
    have such settings differ in it.
    """
    flat = [None if run.is_external else flattened(run.config) for run in compared]
    told = [run.own_config if run.is_external else None for run in compared]
    of_schema = [field for field in fields() if not field.path.startswith(OF_THE_RUN)] if any(flat) else []
    return [*(_row(field, field.path, flat) for field in of_schema), *(_told(key, told) for key in _keys(told))]


def _row(field: FieldInfo, key: str, configs: Sequence[Mapping[str, Any] | None]) -> SettingRow:
    values = tuple(None if config is None else config.get(key) for config in configs)
    known = [value for value, config in zip(values, configs, strict=True) if config is not None]
    return SettingRow(field, values, any(_differ(known[0], value) for value in known[1:]))


def _keys(told: Sequence[Mapping[str, Any] | None]) -> list[str]:
    return sorted({key for config in told if config is not None for key in config})


def _told(key: str, told: Sequence[Mapping[str, Any] | None]) -> SettingRow:
    values = [config[key] for config in told if config is not None and key in config]
    kind: Kind = "number" if all(_is_number(value) for value in values) else "text"
    if any(isinstance(value, (dict, list)) for value in values):
        kind = "object"
    field = FieldInfo(OWN, key, f"{OWN}.{key}", kind, default=None, title=key, description="")
    return _row(field, key, told)


def _differ(one: Any, other: Any) -> bool:
    """1 and 1.0 are one setting, 1 and true are not."""
    return bool(one != other) or isinstance(one, bool) != isinstance(other, bool)


def metrics(compared: Sequence[Run]) -> list[MetricRow]:
    """The last values of every metric that one of the runs reports; losses first."""
    first = ("loss", "eval_loss")
    keys = sorted({key for run in compared for key in run.last}, key=lambda key: (key not in first, key))
    return [_metric(key, tuple(run.last.get(key) for run in compared)) for key in keys]


def _metric(key: str, values: tuple[float | str | None, ...]) -> MetricRow:
    numbers = {place: value for place, value in enumerate(values) if _is_number(value)}
    larger = larger_is_better(key)
    if larger is None or len(set(numbers.values())) < 2:
        return MetricRow(key, values, frozenset())
    best = max(numbers.values()) if larger else min(numbers.values())  # type: ignore[type-var] # numbers alone
    return MetricRow(key, values, frozenset(place for place, value in numbers.items() if value == best))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def larger_is_better(key: str) -> bool | None:
    """Which way a metric is better, by the words of its name; None where they don't say."""
    name = key.lower()
    if any(word in name for word in LARGER):
        return True
    words = name.replace("/", "_").replace(".", "_").replace("-", "_").split("_")
    return False if set(SMALLER) & set(words) else None


def curves(compared: Sequence[Run], key: str, max_points: int) -> dict[str, Any]:
    """The curve of one metric in each run that has it, by the run's number."""
    curve_reading.check(max_points)
    found = {run.pk: curve_reading.read(run, [key], None, max_points)[key] for run in compared}
    return {str(number): series for number, series in found.items() if series["step"]}
