"""Which runs the table lists: the filters that pages, API and saved views share. Runs in the web process."""

from typing import Any

import django_filters
from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, Q, QuerySet

from controlplane.errors import InvalidInputError
from controlplane.models import Run, RunTag
from controlplane.models.jobs import Status
from controlplane.row_ids import row_id
from controlplane.services import run_conditions
from controlplane.services.tables.filters import LONGEST, Filters, one_of, text


def with_tag(name: str) -> Exists:
    """Runs that have a tag."""
    return Exists(RunTag.objects.filter(run=OuterRef("pk"), name=name))


class ConditionsField(forms.CharField):
    """A text of conditions; its value is what they ask of the data base."""

    def clean(self, value: Any) -> Any:
        """The conditions as a Q, None where there are none. Raises ValidationError with the sentence."""
        typed = super().clean(value)
        try:
            return run_conditions.wanted(typed) if typed else None
        except InvalidInputError as error:
            raise ValidationError(error.message) from None


class ConditionsFilter(django_filters.Filter):
    """Conditions on figures and settings."""

    field_class = ConditionsField

    def filter(self, qs: "QuerySet[Run]", value: Any) -> "QuerySet[Run]":
        """Those that fit."""
        return qs if value is None else qs.filter(value)


class RunFilters(Filters):
    """What can be asked of runs."""

    state = one_of("State", "job__status", Status.choices)
    where = ConditionsFilter(label="Where", max_length=LONGEST)
    model = text("Model", "model__name")
    dataset = django_filters.CharFilter(label="Dataset", max_length=LONGEST, method="on_dataset")
    profile = django_filters.CharFilter(label="Profile", field_name="profile", max_length=50)
    group = django_filters.CharFilter(label="Group", field_name="group", max_length=100)
    tag = django_filters.CharFilter(label="Tags", max_length=LONGEST, method="tagged")
    started_by = django_filters.CharFilter(label="Started by", field_name="created_by", max_length=150)

    class Meta:
        model = Run
        fields: tuple[str, ...] = ()

    def words(self, word: str) -> Q:
        """A word is found in the name, the notes, the group or a tag; a number is a run's too."""
        tagged = Exists(RunTag.objects.filter(run=OuterRef("pk"), name__icontains=word))
        found = Q(name__icontains=word) | Q(notes__icontains=word) | Q(group__icontains=word) | Q(tagged)
        number = row_id(word)
        return found if number is None else found | Q(pk=number)

    def on_dataset(self, rows: "QuerySet[Run]", _name: str, text: str) -> "QuerySet[Run]":
        """`NAME` is each version of a dataset, `NAME vN` one of them."""
        name, _, version = text.rpartition(" v")
        number = row_id(version)
        one = Q(dataset__name=name, dataset__version=number) if name and number is not None else Q(pk__in=[])
        return rows.filter(Q(dataset__name=text) | one)

    def tagged(self, rows: "QuerySet[Run]", _name: str, text: str) -> "QuerySet[Run]":
        """All of these tags, with commas between them."""
        for tag in text.split(","):
            if tag.strip():
                rows = rows.filter(with_tag(tag.strip()))
        return rows
