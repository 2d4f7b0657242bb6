"""What the page of every table shows around its rows: heads, filters, order, pages. Runs in the web process.

Everything that is chosen stands in the address: the back button, a reload and a link to somebody else show the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import django_filters
from django.http import QueryDict

from controlplane.services.bulk import NOUNS, Noun
from controlplane.services.tables import keyset
from controlplane.services.tables.columns import Column
from controlplane.services.tables.keyset import PAGE_ROWS, Page, Question

PLACE = ("after", "before")
OFFERED = 200
MOST_BESIDE = 10
"""So many words to be ticked have room beside one another; of more one is chosen from a list."""


@dataclass(frozen=True)
class Header:
    """The head of a column: where a click on it leads, and how the table is ordered by it now ("" where it isn't)."""

    column: Column
    url: str
    order: str


@dataclass(frozen=True)
class Choice:
    """A filter as its form shows it: words to be ticked (`choices`: word, label, whether it is on), or one to type."""

    name: str
    label: str
    value: str
    choices: tuple[tuple[str, str, bool], ...] = ()
    takes_one: bool = False
    offers: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableView:
    """A table on its page. `search`: what is typed into its search, and `noun` what many of its rows are called.

    `kept`: parameters of the address beside filters and order, which a form keeps. `first`: the filters that stand in
    sight, the others are folded.
    """

    params: QueryDict
    question: Question
    page: Page[Any]
    noun: str
    columns: Sequence[Column]
    placeholder: str = "Search"
    kept_names: tuple[str, ...] = ()
    first: str = ""
    offers: Mapping[str, Sequence[str]] | None = None
    falls: Mapping[str, bool] | None = None

    @property
    def hints(self) -> list[str]:
        """What of the address was left out, and why."""
        return [fault.message for fault in self.question.faults]

    @property
    def is_filtered(self) -> bool:
        """Whether some rows may be left out."""
        return self.question.is_filtered

    @property
    def is_first(self) -> bool:
        """Whether it begins at the first row."""
        return self.question.cursor is None

    @property
    def page_rows(self) -> int:
        """How many rows a page has."""
        return PAGE_ROWS

    @property
    def older(self) -> str:
        """The address of the next page, nothing at the end."""
        return address(self.params, after=self.page.after) if self.page.after else ""

    @property
    def newer(self) -> str:
        """The address of the page before, nothing at the beginning."""
        return address(self.params, before=self.page.before) if self.page.before else ""

    @cached_property
    def headers(self) -> list[Header]:
        """The head of each column. What one looks for at the large end falls at the first click."""
        return [self._header(column) for column in self.columns if not column.is_hidden]

    def _header(self, column: Column) -> Header:
        question = self.question
        is_sorted = question.sort.key == column.key
        falls = (self.falls or {}).get(column.key, column.falls)
        is_down = not question.is_descending if is_sorted else falls
        url = address(self.params, sort=f"-{column.key}" if is_down else column.key) if column.order is not None else ""
        order = ("descending" if question.is_descending else "ascending") if is_sorted else ""
        return Header(column, url, order)

    @property
    def search(self) -> str:
        """What is searched for."""
        return self.params.get("q", "")

    @cached_property
    def filters(self) -> list[Choice]:
        """The filters beside the search."""
        base = self.question.filters.base_filters
        return [self._choice(name, item) for name, item in base.items() if name not in ("q", "where")]

    @property
    def where(self) -> Choice | None:
        """The conditions that are typed, where the table knows some."""
        item = self.question.filters.base_filters.get("where")
        return None if item is None else Choice("where", str(item.label), self.params.get("where", ""))

    def _choice(self, name: str, item: django_filters.Filter) -> Choice:
        words = item.extra.get("choices")
        if words is not None:
            on = self.params.getlist(name)
            is_multiple = isinstance(item, django_filters.MultipleChoiceFilter)
            takes_one = not is_multiple or len(words) > MOST_BESIDE
            choices = tuple((word, str(label), word in on) for word, label in words)
            return Choice(name, str(item.label), ", ".join(on), choices, takes_one)
        return Choice(name, str(item.label), self.params.get(name, ""), offers=tuple(self._offered(name, item)))

    def _offered(self, name: str, item: django_filters.Filter) -> Sequence[str]:
        if self.offers is not None:
            return self.offers.get(name, ())
        rows, field = self.question.filters.queryset, item.field_name
        if rows is None or field is None:
            return ()
        found = rows.order_by().values_list(field, flat=True).distinct()[:OFFERED]
        return sorted(word for word in found if word)

    @property
    def in_sight(self) -> list[Choice]:
        """The filters that are never folded."""
        return [item for item in self.filters if item.name == self.first]

    @property
    def folded(self) -> list[Choice]:
        """The others."""
        return [item for item in self.filters if item.name != self.first]

    @property
    def active(self) -> list[dict[str, str]]:
        """Each filter that is on, and the address without it."""
        base = self.question.filters.base_filters
        on = {name: ", ".join(filter(None, self.params.getlist(name))) for name in base}
        return [
            {"label": str(base[name].label), "text": text, "url": address(self.params, **{name: None})}
            for name, text in on.items()
            if text
        ]

    @property
    def kept(self) -> list[tuple[str, str]]:
        """What the form of the filters keeps, for hidden fields."""
        return [(name, value) for name in self.kept_names for value in self.params.getlist(name) if value]

    @property
    def sorts(self) -> list[tuple[str, str, bool]]:
        """Orders by a word, what each is called, and whether it is the present one: a phone has no heads to click."""
        columns = (*self.columns, self.question.sort, self.question.table.find(_bare(self.question.table.default_sort)))
        found = []
        for column in {column.key: column for column in columns if column}.values():
            if column.order is not None:
                up, down = ("oldest", "newest") if column.kind == "moment" else ("up", "down")
                found += [(column.key, f"{column.title}, {up}"), (f"-{column.key}", f"{column.title}, {down}")]
        return [(key, title, key == self.question.sort_word) for key, title in found]

    @property
    def many(self) -> Noun | None:
        """What can be done to many rows at once."""
        return NOUNS.get(self.noun)


def shown(params: QueryDict, question: Question, noun: str, **more: Any) -> TableView:
    """The table that an address asks for, with all of its columns."""
    return TableView(params, question, keyset.page(question), noun, question.table.columns, **more)


def _bare(word: str) -> str:
    return word.removeprefix("-")


def address(params: QueryDict, **changes: str | None) -> str:
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
