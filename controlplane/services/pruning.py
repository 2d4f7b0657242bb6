"""Old rows are taken away a slice at a time: others want to write in between. Runs in the web process."""

from typing import Any

from django.db.models import QuerySet

AT_ONCE = 200
"""Of rows with much text, or with many others behind them."""


def delete_slowly(rows: QuerySet[Any], at_once: int) -> int:
    """Deletes rows with what hangs on them, each slice in a transaction of its own. Returns how many rows there were.

    A row that is no longer one of them when its turn comes stays.
    """
    label, deleted = rows.model._meta.label, 0
    while slice_of := list(rows.order_by("pk").values_list("pk", flat=True)[:at_once]):
        _count, by_model = rows.filter(pk__in=slice_of).delete()
        deleted += by_model.get(label, 0)
    return deleted
