"""Columns of tables, and the values that rows are ordered by as a cursor carries them. Runs in the web process."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from django.db.models import DateTimeField, Expression, F, Field, FloatField, IntegerField
from django.db.models.functions import Lower

Kind = Literal["text", "state", "progress", "number", "count", "bytes", "setting", "tags", "moment", "duration"]
Order = Expression | F
MOST_BITS = 62
FIGURES: frozenset[str] = frozenset({"progress", "number", "count", "bytes", "moment", "duration"})


@dataclass(frozen=True)
class Column:
    """One column. `key` is its name in addresses; `order` what it is sorted by, None where it can't be.

    `is_full`: every row has a value, so that an index serves the order. `is_hidden`: an order that has no column.
    `is_wide`: there is no room for it on a phone. `is_left`: a figure that stands at the left all the same.
    """

    key: str
    title: str
    kind: Kind
    order: Order | None = None
    unit: str = ""
    is_full: bool = False
    is_hidden: bool = False
    is_wide: bool = False
    is_left: bool = False

    @property
    def is_figure(self) -> bool:
        """Whether it is written to the right."""
        return self.kind in FIGURES and not self.is_left

    @property
    def falls(self) -> bool:
        """Whether one looks for the largest first."""
        return self.kind in FIGURES and self.kind != "number"


def named(key: str, field: str, title: str = "", *, is_wide: bool = False) -> Column:
    """A column of words, ordered without regard to capitals."""
    return Column(key, title or key, "text", Lower(field), is_full=True, is_wide=is_wide)


def to_cursor(value: Any) -> Any:
    """A value that rows are ordered by, as JSON can hold it."""
    return value.isoformat() if isinstance(value, datetime) else value


def from_cursor(field: "Field[Any, Any]", value: Any) -> Any:
    """The same value again, for an order of this type. Raises ValueError for what can't be one."""
    if value is None:
        return None
    if isinstance(field, DateTimeField):
        return _moment(value)
    if isinstance(field, (IntegerField, FloatField)):
        return _number(field, value)
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no text")
    value.encode()  # half a character is no text either
    return value


def _number(field: "Field[Any, Any]", value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("no number")
    is_whole = isinstance(field, IntegerField)
    if abs(value) >= 2**MOST_BITS and (is_whole or isinstance(value, int)):
        raise ValueError("no number")
    return value


def _moment(text: Any) -> datetime:
    if not isinstance(text, str):
        raise ValueError("no moment")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("no moment") from None
