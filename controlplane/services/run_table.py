"""The table of runs: what an address asks for, and the page of rows that it is. Runs in the web process; reads only."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import QuerySet, prefetch_related_objects
from django.http import QueryDict

from controlplane.errors import FieldFault
from controlplane.models import Run
from controlplane.services import run_columns
from controlplane.services.run_columns import RunColumn
from controlplane.services.run_filters import RunFilters
from controlplane.services.tables import keyset
from controlplane.services.tables.keyset import MOST_ROWS, PAGE_ROWS, Page, Question, Table, short

TABLE = Table(RunFilters, run_columns.FIXED, "-created", run_columns.find)
VIEW_PARAMETERS = (*TABLE.parameters, "column")
"""What of an address makes a view: all but where in the table one is."""


@dataclass(frozen=True)
class RunQuestion(Question):
    """What an address asks of runs, and the columns that it shows."""

    columns: tuple[RunColumn, ...]


def ask(params: QueryDict) -> RunQuestion:
    """Reads an address. Raises nothing: what can't be taken is among the faults."""
    asked = keyset.ask(TABLE, params, with_rows(Run.objects.all()))
    columns, unknown = _columns(params.getlist("column"))
    return RunQuestion(
        asked.table, asked.filters, asked.sort, asked.is_descending, asked.cursor, (*asked.faults, *unknown), columns
    )


def _columns(keys: Iterable[str]) -> tuple[tuple[RunColumn, ...], list[FieldFault]]:
    asked = dict.fromkeys(key for key in keys if key != "run") or dict.fromkeys(run_columns.DEFAULT)
    found = {key: run_columns.find(key) for key in asked}
    faults = [FieldFault("column", f"There is no column {short(key)}.") for key, column in found.items() if not column]
    known = [column for column in found.values() if column]
    if len(known) > run_columns.MOST_COLUMNS:
        faults.append(FieldFault("column", f"At most {run_columns.MOST_COLUMNS} columns are shown."))
    return tuple(known[: run_columns.MOST_COLUMNS]), faults


def page(question: Question, size: int = PAGE_ROWS) -> Page[Run]:
    """The runs that a question asks for."""
    return keyset.page(question, size)


def metrics(shown: Page[Run]) -> list[str]:
    """The metrics that the runs of a page have reported."""
    return sorted({key for run in shown.rows for key in run.last})


def listed(params: QueryDict, size: int, before_id: int | None = None) -> Page[Run]:
    """The same for a script, with all that a run's facts tell. Raises InvalidInputError for what can't be taken.

    `before_id`: older runs than this one, without a cursor.
    """
    found = page(keyset.older_than(keyset.required(ask(params)), before_id), size)
    prefetch_related_objects(found.rows, "job__energy", "models")
    return found


def with_rows(rows: "QuerySet[Run]") -> "QuerySet[Run]":
    """What each row shows of other tables comes along."""
    return rows.select_related("job", "job__host", "dataset", "model", "chain").prefetch_related("tags")


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
