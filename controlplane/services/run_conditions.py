"""Conditions on the figures and settings of runs, as people type them: `loss<2, learning_rate>=1e-4`. Web process.

A name is a setting's (its path, or its last word), else a metric's: its last value, or with `min.` and `max.` before it
the smallest and largest of its finite points (`last.` says that the metric is meant where a setting has the name, too).
NaN is only unlike everything; the infinities are beyond every number; what has no value fits no condition but `=none`.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db.models import Exists, Expression, F, OuterRef, Q, TextField, Value
from django.db.models.functions import Coalesce
from django.db.models.lookups import (
    Exact,
    GreaterThan,
    GreaterThanOrEqual,
    IExact,
    In,
    IsNull,
    LessThan,
    LessThanOrEqual,
)

from controlplane.errors import InvalidInputError
from controlplane.models import Metric
from controlplane.services.run_columns import LAST, LONGEST_KEY
from controlplane.services.tables.json_values import JsonNumber, JsonText, is_reachable
from controlplane.services.tables.keyset import short
from training.config.difference import OF_THE_RUN
from training.config.fields import FieldInfo, by_path, fields

MOST = 10
CONDITION = re.compile(
    r"""\s*(?:"(?P<quoted>[^"]+)"|(?P<name>[^<>=!,"]+?))\s*(?P<sign><=|>=|!=|==|=|<|>)"""
    r"""\s*(?:"(?P<said>[^"]*)"|(?P<value>[^<>=!,"]+?))\s*(?:,|\band\b|$)""",
    re.IGNORECASE,
)
Sign = Callable[[Any, Any], bool]
SIGNS: dict[str, tuple[type[Any], Sign]] = {
    "<": (LessThan, operator.lt), "<=": (LessThanOrEqual, operator.le), ">": (GreaterThan, operator.gt),
    ">=": (GreaterThanOrEqual, operator.ge), "=": (Exact, operator.eq), "!=": (Exact, operator.ne),
}  # fmt: skip
BROKEN = ("NaN", "Infinity", "-Infinity")
"""What is no finite number, as events and the data base write it."""

TRUE, FALSE = ("1", "true"), ("0", "false")
"""How the data bases write what is yes or no."""

SWITCHES = {**dict.fromkeys(("yes", "true", "on", "1"), TRUE), **dict.fromkeys(("no", "false", "off", "0"), FALSE)}


@dataclass(frozen=True)
class Condition:
    """One condition: `name` as it was typed."""

    name: str
    sign: str
    value: str


def wanted(text: str) -> Q:
    """The runs that fit all conditions of a text. Raises InvalidInputError with a sentence for what can't be read."""
    conditions = list(_read(text))
    if len(conditions) > MOST:
        raise InvalidInputError(f"At most {MOST} conditions are asked at once, not {len(conditions)}.")
    found = Q()
    for condition in conditions:
        found &= _fits(condition)
    return found


def _read(text: str) -> Iterator[Condition]:
    place = 0
    while text[place:].strip():
        match = CONDITION.match(text, place)
        if match is None:
            raise InvalidInputError(
                f"{short(text[place:].strip())} is no condition: write a name, one of < <= > >= = !=, and a value, as "
                "in loss<2, learning_rate>=1e-4."
            )
        name = match["quoted"] or match["name"].strip()
        value = match["said"] if match["said"] is not None else match["value"].strip()
        yield Condition(name, "=" if match["sign"] == "==" else match["sign"], value)
        place = match.end()


def _fits(condition: Condition) -> Q:
    name = condition.name
    if name.startswith(("min.", "max.")):
        return _extreme(condition, name[4:], "low" if name.startswith("min.") else "high")
    if name == "step":
        return _compared(condition, F("last_step"), None)
    setting = None if name.startswith(LAST) else _setting(name)
    if setting is not None:
        return _on_setting(condition, setting)
    key = _checked(name.removeprefix(LAST))
    return _compared(condition, JsonNumber("last", key), JsonText("last", key))


def _checked(key: str) -> str:
    if not is_reachable(key) or not 0 < len(key) <= LONGEST_KEY:
        raise InvalidInputError(
            f"{short(key)} can't be asked for: a metric's name has 1 to {LONGEST_KEY} characters, without \\."
        )
    return key


@cache
def _by_last_word() -> dict[str, FieldInfo]:
    """The settings by the last word of their path, where no other has it."""
    found: dict[str, FieldInfo | None] = {}
    for field in fields():
        found[field.name] = None if field.name in found else field
    return {name: field for name, field in found.items() if field is not None}


def _setting(name: str) -> FieldInfo | None:
    field = by_path().get(name) or _by_last_word().get(name)
    return None if field is None or field.path.startswith(OF_THE_RUN) else field


def _on_setting(condition: Condition, field: FieldInfo) -> Q:
    """What a run's settings don't say has its default, as the table shows it."""
    path = ("config", field.section, field.name)
    if field.kind in ("integer", "number"):
        return _compared(condition, Coalesce(JsonNumber(*path), Value(float(field.default))), None)
    if condition.sign not in ("=", "!="):
        raise InvalidInputError(f"{condition.name} is no number: ask with = or !=.")
    default = str(int(field.default)) if isinstance(field.default, bool) else str(field.default)
    text = Coalesce(JsonText(*path), Value(default), output_field=TextField())
    if isinstance(field.default, bool):
        words = SWITCHES.get(condition.value.lower())
        if words is None:
            raise InvalidInputError(f"{condition.name} is yes or no, not {short(condition.value)}.")
        same = Q(In(text, words))
    else:
        same = Q(IExact(text, condition.value))
    return same if condition.sign == "=" else ~same


def _extreme(condition: Condition, key: str, column: str) -> Q:
    number = _number(condition)
    if number is None or not math.isfinite(number):
        raise InvalidInputError(f"{condition.name} is among finite points: compare it with a number.")
    lookup, _ = SIGNS[condition.sign]
    rows = Metric.objects.filter(run=OuterRef("pk"), key=key, **{f"{column}__isnull": False})
    same = Q(lookup(F(column), number))
    return Q(Exists(rows.filter(same if condition.sign != "!=" else ~same)))


def _number(condition: Condition) -> float | None:
    """The number that a value is, None for `none`. Raises InvalidInputError for anything else."""
    if condition.value.lower() == "none":
        return None
    try:
        return float(condition.value)
    except ValueError:
        raise InvalidInputError(
            f"{condition.name} is compared with a number, not with {short(condition.value)}: write 0.5, 1e-4, inf, nan "
            "or none."
        ) from None


def _compared(condition: Condition, number: Expression | F, text: Expression | None) -> Q:
    """`text`: the same place as a text, where NaN and the infinities may stand."""
    value, sign, name = _number(condition), condition.sign, condition.name
    place = text if text is not None else number
    if value is None:
        if sign not in ("=", "!="):
            raise InvalidInputError(f"Nothing is larger or smaller than none: ask with {name}=none or {name}!=none.")
        return Q(IsNull(place, sign == "="))
    if math.isnan(value):
        return _nan(condition, place)
    lookup, holds = SIGNS[sign]
    if math.isinf(value):
        found = Q(IsNull(number, False)) if holds(0.0, value) else Q(pk__in=[])
    elif sign == "!=":
        found = Q(LessThan(number, value)) | Q(GreaterThan(number, value))
    else:
        found = Q(lookup(number, value))
    broken = [word for word in BROKEN if holds(float(word), value)]
    return found | Q(In(text, broken)) if text is not None and broken else found


def _nan(condition: Condition, place: Expression | F) -> Q:
    name = condition.name
    if condition.sign not in ("=", "!="):
        raise InvalidInputError(f"Nothing is larger or smaller than NaN: ask with {name}=nan or {name}!=nan.")
    if not isinstance(place, JsonText):
        return Q(pk__in=[]) if condition.sign == "=" else Q(IsNull(place, False))
    same = Q(Exact(place, "NaN"))
    return same if condition.sign == "=" else Q(IsNull(place, False)) & ~same
