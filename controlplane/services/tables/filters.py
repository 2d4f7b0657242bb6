"""Filters of tables: what a parameter of an address leaves out. Runs in the web process."""

from collections.abc import Callable
from typing import Any

import django_filters
from django.db.models import Q, QuerySet

from controlplane.row_ids import row_id

LONGEST = 200


class Filters(django_filters.FilterSet):
    """One filter a parameter; those that are empty, and those that can't be taken (see `faults`), ask for nothing.

    A table's own has `words`: what a word of `q` must be found in.
    """

    q = django_filters.CharFilter(label="Search", max_length=LONGEST, method="search")

    def words(self, word: str) -> Q:
        """Where a word is looked for."""
        raise NotImplementedError

    def search(self, rows: "QuerySet[Any]", _name: str, text: str) -> "QuerySet[Any]":
        """Each word must be found."""
        for word in text.split():
            rows = rows.filter(self.words(word))
        return rows

    @property
    def faults(self) -> list[tuple[str, str]]:
        """What can't be taken: the parameter and why."""
        return [(name, str(fault)) for name, found in self.errors.items() for fault in found]


def one_of(label: str, field_name: str, choices: Any) -> django_filters.MultipleChoiceFilter:
    """Any of some words; the parameter may come several times.

    Not distinct: nothing comes twice where the field is the row's own, and each column of each row would be compared.
    """
    words = ", ".join(word for word, _ in choices)
    faults = {"invalid_choice": f"There is no {label.lower()} %(value)s. There are: {words}."}
    return django_filters.MultipleChoiceFilter(
        label=label, field_name=field_name, choices=choices, distinct=False, error_messages=faults
    )


def text(label: str, field_name: str, *, method: str | Callable[..., Any] | None = None) -> django_filters.CharFilter:
    """Exactly this text."""
    return django_filters.CharFilter(label=label, field_name=field_name, max_length=LONGEST, method=method)


def found_in(word: str, *field_names: str) -> Q:
    """Where a word may be: in one of these fields, or as the row's own number."""
    found = Q()
    for name in field_names:
        found |= Q(**{f"{name}__icontains": word})
    number = row_id(word)
    return found if number is None else found | Q(pk=number)
