"""Tables whose rows an address asks for: filters, an order, and the page of rows that they come to. Web process.

Pages go by key, not by number: a cursor holds what its row is ordered by, so any page costs what the first one does,
and rows that come or go meanwhile shift none. What has no value comes last in either order.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import F, Field, IntegerField, Model, Q, QuerySet
from django.http import QueryDict

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.row_ids import row_id
from controlplane.services.tables.columns import Column, from_cursor, to_cursor
from controlplane.services.tables.filters import Filters

PAGE_ROWS = 50
MOST_ROWS = 500
COUNTED_UP_TO = 10_000
SHOWN_CHARACTERS = 60
Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True)
class Table:
    """What can be asked of a table. `find`: the column of a key; `columns`: those that are always there."""

    filters: type[Filters]
    columns: tuple[Column, ...]
    default_sort: str
    find: Callable[[str], Column | None]

    @property
    def parameters(self) -> tuple[str, ...]:
        """What of an address says which rows, in which order: all but where in the table one is."""
        return (*self.filters.base_filters, "sort")


def table(filters: type[Filters], columns: Sequence[Column], default_sort: str) -> Table:
    """A table whose columns are always the same."""
    by_key = {column.key: column for column in columns}
    return Table(filters, tuple(columns), default_sort, by_key.get)


@dataclass(frozen=True)
class Cursor:
    """Behind (or, `backwards`, before) which row a page begins."""

    value: Any
    row: Any
    backwards: bool


@dataclass(frozen=True)
class Question:
    """What an address asks for. `faults`: what of it can't be taken, and was left out."""

    table: Table
    filters: Filters
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
        """Whether some rows may be left out."""
        return any(self.filters.form.cleaned_data.values())


@dataclass
class Page(Generic[Row]):
    """Some rows in order. `after` and `before` are the cursors of the pages around it, None at the ends.

    `count` is how many rows there are in all, as far as counting is cheap; `is_whole_count`: whether that is all.
    """

    rows: list[Row]
    after: str | None = None
    before: str | None = None
    count: int = 0
    is_whole_count: bool = True

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies, as the API answers it."""
        return {
            "after": self.after, "before": self.before, "count": self.count, "is_whole_count": self.is_whole_count,
        }  # fmt: skip


def ask(asked: Table, params: QueryDict, rows: "QuerySet[Any]") -> Question:
    """Reads an address; `rows` are those that may be asked for. Raises nothing: see the question's faults."""
    filters = asked.filters(params, queryset=rows)
    faults = [FieldFault(name, why) for name, why in filters.faults]
    word = params.get("sort", "") or asked.default_sort
    sort = asked.find(word.removeprefix("-"))
    if sort is None or sort.order is None:
        faults.append(FieldFault("sort", f"There is no order {short(word)}."))
        word = asked.default_sort
        sort = asked.find(word.removeprefix("-"))
    assert sort is not None  # noqa: S101 - for mypy: the default's column is there
    cursor, fault = _cursor(params, rows, sort)
    return Question(asked, filters, sort, word.startswith("-"), cursor, (*faults, *fault))


def short(text: str) -> str:
    """What somebody typed, as a sentence quotes it."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")


def required(question: Question) -> Question:
    """The same for a script: raises InvalidInputError for what can't be taken."""
    if question.faults:
        raise InvalidInputError(" ".join(fault.message for fault in question.faults), question.faults)
    return question


def older_than(question: Question, before_id: int | None) -> Question:
    """Older rows than this one, for scripts that know its number and no cursor. Raises InvalidInputError."""
    if before_id is None or question.cursor is not None:
        return question
    if question.sort_word != question.table.default_sort:
        fault = FieldFault("before_id", "goes with the order by age alone")
        raise InvalidInputError("before_id goes with the order by age: ask with `after`.", (fault,))
    return replace(question, cursor=Cursor(before_id, before_id, backwards=False))


# --- Cursors ----------------------------------------------------------------------------------------------------------


def _cursor(params: QueryDict, rows: "QuerySet[Any]", sort: Column) -> tuple[Cursor | None, tuple[FieldFault, ...]]:
    name = "before" if params.get("before") else "after"
    text = params.get(name, "")
    if not text:
        return None, ()
    order = rows.annotate(sort_value=sort.order).query.annotations["sort_value"].output_field
    try:
        value, row = json.loads(base64.urlsafe_b64decode(text.encode()))
        return Cursor(from_cursor(order, value), _row_key(rows, row), name == "before"), ()
    except (ValueError, TypeError, RecursionError):
        return None, (FieldFault(name, "There is no such place in the table: begin at its first page."),)


def _row_key(rows: "QuerySet[Any]", value: Any) -> Any:
    key: Field[Any, Any] = rows.model._meta.pk
    if isinstance(key, IntegerField):
        number = row_id(str(value))
        if number is None:
            raise ValueError("no number of a row")
        return number
    try:
        return key.to_python(str(value))
    except ValidationError:
        raise ValueError("no key of a row") from None


def _encoded(row: Any) -> str:
    key = row.pk if isinstance(row.pk, int) else str(row.pk)
    return base64.urlsafe_b64encode(json.dumps([to_cursor(row.sort_value), key]).encode()).decode()


def _beyond(cursor: Cursor, is_descending: bool, is_full: bool) -> Q:
    """The rows on the far side of a cursor's, in an order whose last are those without a value."""
    is_forwards = not cursor.backwards
    side = "lt" if is_descending == is_forwards else "gt"
    nearer = Q(**{f"pk__{side}": cursor.row})
    if cursor.value is None:
        same = Q(sort_value__isnull=True) & nearer
        return same if is_forwards else same | Q(sort_value__isnull=False)
    further = Q(**{f"sort_value__{side}": cursor.value})
    if is_full:  # said in a way that lets an index begin at the value
        return Q(**{f"sort_value__{side}e": cursor.value}) & (further | nearer)
    beyond = further | (Q(sort_value=cursor.value) & nearer)
    return beyond | Q(sort_value__isnull=True) if is_forwards else beyond


# --- Pages ------------------------------------------------------------------------------------------------------------


def page(question: Question, size: int = PAGE_ROWS) -> Page[Any]:
    """The rows that a question asks for; each has `sort_value`, what it is ordered by."""
    matching = question.filters.qs
    rows = matching.annotate(sort_value=question.sort.order)
    found = _cut(rows, question, question.cursor, size)
    if question.cursor and question.cursor.backwards and len(found.rows) < size:
        found = _cut(rows, question, None, size)  # the way back has come to the beginning: a whole first page
    found.count, found.is_whole_count = _count(matching)
    return found


def _cut(rows: "QuerySet[Any]", question: Question, cursor: Cursor | None, size: int) -> Page[Any]:
    backwards = cursor is not None and cursor.backwards
    is_full = question.sort.is_full
    if cursor is not None:
        rows = rows.filter(_beyond(cursor, question.is_descending, is_full))
    # Nulls last, and the whole order turned round on the way back.
    is_down = question.is_descending != backwards
    nulls: Mapping[str, Any] = {} if is_full else {"nulls_first": True} if backwards else {"nulls_last": True}
    key = F("sort_value")
    rows = rows.order_by(key.desc(**nulls) if is_down else key.asc(**nulls), "-pk" if is_down else "pk")
    keys = list(rows.values_list("pk", "sort_value")[: size + 1])
    more, listed = len(keys) > size, _whole(question, dict(keys[:size]))
    if backwards:
        listed.reverse()
    shown: Page[Any] = Page(listed)
    if listed:
        shown.after = _encoded(listed[-1]) if more or backwards else None
        shown.before = _encoded(listed[0]) if (more if backwards else cursor is not None) else None
    return shown


def _whole(question: Question, values: Mapping[Any, Any]) -> list[Any]:
    """The rows of these keys, in their order. Looked for by themselves: a sort would carry all they have otherwise."""
    rows = question.filters.queryset
    assert rows is not None  # noqa: S101 - for mypy: `ask` gave it
    found = rows.in_bulk(list(values))
    listed = [found[key] for key in values if key in found]  # one may have gone meanwhile
    for row in listed:
        row.sort_value = values[row.pk]
    return listed


def _count(rows: "QuerySet[Any]") -> tuple[int, bool]:
    count = rows.order_by().values("pk")[: COUNTED_UP_TO + 1].count()
    return min(count, COUNTED_UP_TO), count <= COUNTED_UP_TO
