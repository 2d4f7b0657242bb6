"""Which runs the table lists: the filters that pages, API and saved views share. Runs in the web process."""

from typing import Any

import django_filters
from django.db.models import Exists, OuterRef, Q, QuerySet

from controlplane.models import Run, RunTag
from controlplane.models.jobs import Status
from controlplane.row_ids import row_id

LONGEST = 200


def with_tag(name: str) -> Exists:
    """Runs that have a tag."""
    return Exists(RunTag.objects.filter(run=OuterRef("pk"), name=name))


class RunFilters(django_filters.FilterSet):
    """One filter a parameter; those that are empty, and those that can't be taken (see `errors`), ask for nothing."""

    q = django_filters.CharFilter(label="Search", max_length=LONGEST, method="search")
    state = django_filters.MultipleChoiceFilter(
        label="State", field_name="job__status", choices=Status.choices,
        distinct=False,  # a run has one job: nothing comes twice, and each column of each row would be compared
    )  # fmt: skip
    model = django_filters.CharFilter(label="Model", field_name="model__name", max_length=LONGEST)
    dataset = django_filters.CharFilter(label="Dataset", max_length=LONGEST, method="on_dataset")
    profile = django_filters.CharFilter(label="Profile", field_name="profile", max_length=50)
    group = django_filters.CharFilter(label="Group", field_name="group", max_length=100)
    tag = django_filters.CharFilter(label="Tags", max_length=LONGEST, method="tagged")
    started_by = django_filters.CharFilter(label="Started by", field_name="created_by", max_length=150)

    class Meta:
        model = Run
        fields: tuple[str, ...] = ()

    def search(self, rows: QuerySet[Run], _name: str, text: str) -> QuerySet[Run]:
        """Each word must be found in the name, the notes, the group or a tag; a number is a run's too."""
        for word in text.split():
            tagged = Exists(RunTag.objects.filter(run=OuterRef("pk"), name__icontains=word))
            found = Q(name__icontains=word) | Q(notes__icontains=word) | Q(group__icontains=word) | Q(tagged)
            number = row_id(word)
            rows = rows.filter(found if number is None else found | Q(pk=number))
        return rows

    def on_dataset(self, rows: QuerySet[Run], _name: str, text: str) -> QuerySet[Run]:
        """`NAME` is each version of a dataset, `NAME vN` one of them."""
        name, _, version = text.rpartition(" v")
        number = row_id(version)
        one = Q(dataset__name=name, dataset__version=number) if name and number is not None else Q(pk__in=[])
        return rows.filter(Q(dataset__name=text) | one)

    def tagged(self, rows: QuerySet[Run], _name: str, text: str) -> QuerySet[Run]:
        """All of these tags, with commas between them."""
        for tag in text.split(","):
            if tag.strip():
                rows = rows.filter(with_tag(tag.strip()))
        return rows


NAMES: tuple[str, ...] = tuple(RunFilters.base_filters)
"""The parameters of an address that filter."""


def faults(filters: Any) -> list[tuple[str, str]]:
    """What can't be taken: the parameter and why."""
    return [(name, str(fault)) for name, found in filters.errors.items() for fault in found]
