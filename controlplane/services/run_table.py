"""The table of runs: what an address asks for, and the page of rows that it is. Runs in the web process; reads only.

Pages go by key, not by number: a cursor holds what its row is ordered by, so any page costs what the first one does,
and rows that come or go meanwhile shift none. What has no value comes last in either order.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from django.db.models import F, Q, QuerySet, prefetch_related_objects
from django.http import QueryDict

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import Run
from controlplane.row_ids import row_id
from controlplane.services import run_columns, run_filters
from controlplane.services.run_columns import Column

PAGE_ROWS = 50
MOST_ROWS = 500
COUNTED_UP_TO = 10_000
DEFAULT_SORT = "-created"
VIEW_PARAMETERS = (*run_filters.NAMES, "column", "sort")
"""What of an address makes a view: all but where in the table one is."""


@dataclass(frozen=True)
class Cursor:
    """Behind (or, `backwards`, before) which row a page begins."""

    value: Any
    run_id: int
    backwards: bool


@dataclass(frozen=True)
class Question:
    """What an address asks for. `faults`: what of it can't be taken, and was left out."""

    filters: run_filters.RunFilters
    columns: tuple[Column, ...]
    sort: Column
    is_descending: bool
    cursor: Cursor | None
    faults: tuple[FieldFault, ...]

    @property
    def sort_word(self) -> str:
        """The order as an address writes it."""
        return f"-{self.sort.key}" if self.is_descending else self.sort.key

    @property
    def is_filtered(self) -> bool:
        """Whether some runs may be left out."""
        return any(self.filters.form.cleaned_data.values())


@dataclass
class Page:
    """Some rows in order. `after` and `before` are the cursors of the pages around it, None at the ends."""

    rows: list[Run]
    after: str | None = None
    before: str | None = None
    count: int = field(default=0)
    is_whole_count: bool = True

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that these runs have reported."""
        return sorted({key for run in self.rows for key in run.last})


def ask(params: QueryDict) -> Question:
    """Reads an address. Raises nothing: what can't be taken is among the faults."""
    filters = run_filters.RunFilters(params, queryset=Run.objects.all())
    faults = [FieldFault(name, why) for name, why in run_filters.faults(filters)]
    columns, unknown = _columns(params.getlist("column"))
    faults += unknown
    word = params.get("sort", "") or DEFAULT_SORT
    sort = run_columns.find(word.removeprefix("-"))
    if sort is None or sort.order is None:
        faults.append(FieldFault("sort", f"There is no order {_short(word)}."))
        word, sort = DEFAULT_SORT, run_columns.find("created")
    assert sort is not None  # noqa: S101 - for mypy: the default's column is fixed
    cursor, fault = _cursor(params, sort)
    faults += fault
    return Question(filters, columns, sort, word.startswith("-"), cursor, tuple(faults))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _columns(keys: Iterable[str]) -> tuple[tuple[Column, ...], list[FieldFault]]:
    asked = dict.fromkeys(key for key in keys if key != "run") or dict.fromkeys(run_columns.DEFAULT)
    found = {key: run_columns.find(key) for key in asked}
    faults = [FieldFault("column", f"There is no column {_short(key)}.") for key, column in found.items() if not column]
    known = [column for column in found.values() if column]
    if len(known) > run_columns.MOST_COLUMNS:
        faults.append(FieldFault("column", f"At most {run_columns.MOST_COLUMNS} columns are shown."))
    return tuple(known[: run_columns.MOST_COLUMNS]), faults


# --- Cursors ----------------------------------------------------------------------------------------------------------


def _cursor(params: QueryDict, sort: Column) -> tuple[Cursor | None, list[FieldFault]]:
    name = "before" if params.get("before") else "after"
    text = params.get(name, "")
    if not text:
        return None, []
    try:
        value, run_id = json.loads(base64.urlsafe_b64decode(text.encode()))
        if row_id(str(run_id)) is None:
            raise ValueError("no number of a run")
        return Cursor(run_columns.from_cursor(sort, value), int(run_id), name == "before"), []
    except (ValueError, TypeError, RecursionError):
        return None, [FieldFault(name, "There is no such place in the table: begin at its first page.")]


def _encoded(row: Run) -> str:
    value = run_columns.to_cursor(row.sort_value)  # type: ignore[attr-defined] # annotated
    return base64.urlsafe_b64encode(json.dumps([value, row.pk]).encode()).decode()


def _beyond(cursor: Cursor, is_descending: bool) -> Q:
    """The rows on the far side of a cursor's, in an order whose last are those without a value."""
    is_forwards = not cursor.backwards
    side = "lt" if is_descending == is_forwards else "gt"
    nearer = Q(**{f"pk__{side}": cursor.run_id})
    if cursor.value is None:
        same = Q(sort_value__isnull=True) & nearer
        return same if is_forwards else same | Q(sort_value__isnull=False)
    beyond = Q(**{f"sort_value__{side}": cursor.value}) | (Q(sort_value=cursor.value) & nearer)
    return beyond | Q(sort_value__isnull=True) if is_forwards else beyond


# --- Pages ------------------------------------------------------------------------------------------------------------


def page(question: Question, size: int = PAGE_ROWS) -> Page:
    """The rows that a question asks for."""
    matching = question.filters.qs
    rows = matching.annotate(sort_value=question.sort.order)
    found = _cut(rows, question, question.cursor, size)
    if question.cursor and question.cursor.backwards and len(found.rows) < size:
        found = _cut(rows, question, None, size)  # the way back has come to the beginning: a whole first page
    found.count, found.is_whole_count = _count(matching)
    return found


def listed(params: QueryDict, size: int, before_id: int | None = None) -> Page:
    """The same for a script, with all that a run's facts tell. Raises InvalidInputError for what can't be taken.

    `before_id`: older runs than this one, without a cursor.
    """
    question = ask(params)
    if question.faults:
        raise InvalidInputError(" ".join(fault.message for fault in question.faults), question.faults)
    if before_id is not None and question.cursor is None:
        question = replace(question, cursor=Cursor(before_id, before_id, backwards=False))
        if question.sort_word != DEFAULT_SORT:
            raise InvalidInputError("before_id goes with the order by age: ask with `after`.", (_AT_BEFORE,))
    found = page(question, size)
    prefetch_related_objects(found.rows, "job__energy", "models")
    return found


_AT_BEFORE = FieldFault("before_id", "goes with the order by age alone")


def _cut(rows: QuerySet[Run], question: Question, cursor: Cursor | None, size: int) -> Page:
    backwards = cursor is not None and cursor.backwards
    if cursor is not None:
        rows = rows.filter(_beyond(cursor, question.is_descending))
    # Nulls last, and the whole order turned round on the way back.
    is_down = question.is_descending != backwards
    nulls: Mapping[str, Any] = {"nulls_first": True} if backwards else {"nulls_last": True}
    key = F("sort_value")
    rows = rows.order_by(key.desc(**nulls) if is_down else key.asc(**nulls), "-pk" if is_down else "pk")
    listed = list(with_rows(rows)[: size + 1])
    more, listed = len(listed) > size, listed[:size]
    if backwards:
        listed.reverse()
    shown = Page(listed)
    if listed:
        shown.after = _encoded(listed[-1]) if more or backwards else None
        shown.before = _encoded(listed[0]) if (more if backwards else cursor is not None) else None
    return shown


def with_rows(rows: QuerySet[Run]) -> QuerySet[Run]:
    """What each row shows of other tables comes along."""
    return rows.select_related("job", "job__host", "dataset", "model", "chain").prefetch_related("tags")


def _count(rows: QuerySet[Run]) -> tuple[int, bool]:
    """How many there are, as far as counting is cheap; and whether that is all."""
    count = rows.order_by().values("pk")[: COUNTED_UP_TO + 1].count()
    return min(count, COUNTED_UP_TO), count <= COUNTED_UP_TO


def some(run_ids: Iterable[int]) -> list[Run]:
    """Runs by their numbers, in the order asked; those that aren't there are left out."""
    wanted = list(dict.fromkeys(run_ids))[:MOST_ROWS]
    found = {run.pk: run for run in with_rows(Run.objects.filter(pk__in=wanted))}
    return [found[number] for number in wanted if number in found]


def view_of(params: QueryDict) -> str:
    """The part of an address that a view keeps, empty parameters left out."""
    kept = QueryDict(mutable=True)
    for name in VIEW_PARAMETERS:
        if values := [value for value in params.getlist(name) if value]:
            kept.setlist(name, values)
    return kept.urlencode()
