"""A row of every model: for what must know of each, those that come later too."""

import uuid
from datetime import UTC, date, datetime, time
from typing import Any

from django.db.models import Field, Model

from controlplane.services.moving import tables

AWKWARD = "naïve ✓ \u2028 'quoted' \\u0000 %s"
VALUES: dict[str, Any] = {
    "BooleanField": True, "BinaryField": b"\x00\x01\xff", "DateField": date(2026, 2, 28),
    "DateTimeField": datetime(2026, 3, 4, 5, 6, 7, 891_011, UTC), "FloatField": 0.1 + 0.2, "DurationField": None,
    "JSONField": {"b": [1, 1.0, -2.5e-7, 1e22, None, True, AWKWARD], "a": {"NaN": "NaN", "": {}}},
    "GenericIPAddressField": "127.0.0.1", "TimeField": time(7, 30),
}  # fmt: skip


def make_rows_of_everything() -> None:
    """One row more in each table, with values of every kind."""
    made: dict[type[Model], Model] = {}
    for model in tables():
        _make(model, made)


def _make(model: type[Model], made: dict[type[Model], Model]) -> Model:
    if model not in made:
        fields = [field for field in model._meta.concrete_fields if not field.primary_key or field.is_relation]
        row = model(**{field.name: _value(field, made) for field in fields})
        if row.pk is None and not model._meta.pk.get_internal_type().endswith("AutoField"):
            row.pk = _plain_value(model._meta.pk)
        model._base_manager.bulk_create([row])  # no service, no save(): whatever they would refuse or change
        made[model] = row
    return made[model]


def _value(field: "Field[Any, Any]", made: dict[type[Model], Model]) -> Any:
    if not field.is_relation:
        return _plain_value(field)
    other: Any = field.related_model
    if other is field.model or (field.null and other not in made):
        return None
    return _make(other, made)


def _plain_value(field: "Field[Any, Any]") -> Any:
    kind = field.get_internal_type()
    if kind in VALUES:
        return VALUES[kind]
    if kind == "UUIDField":
        return uuid.uuid4()
    if kind.endswith("IntegerField"):
        return 1 << 40 if kind == "BigIntegerField" else 7
    return f"{AWKWARD} {uuid.uuid4().hex}"[-(field.max_length or 1000) :]
