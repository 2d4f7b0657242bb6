"""How the difference of two configurations is shown: in words, datasets by name. Runs in the web process."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.models import Dataset
from training.config.difference import Difference

LONGEST = 120
OF_DATASETS = frozenset({"data.train_dataset", "data.eval_dataset"})


@dataclass(frozen=True)
class DifferenceRow:
    """One line of the table. `old_is_default` and `new_is_default` tell a value that nobody chose."""

    path: str
    title: str
    unit: str
    old: str
    new: str
    old_is_default: bool
    new_is_default: bool


def rows(found: Iterable[Difference]) -> list[DifferenceRow]:
    """The lines of the table, in the order of the settings."""
    found = list(found)
    ids = {str(value) for item in found if item.path in OF_DATASETS for value in (item.old, item.new)}
    names = {str(row.pk): str(row) for row in Dataset.objects.filter(pk__in=[ref for ref in ids if ref.isdecimal()])}
    return [
        DifferenceRow(
            item.path, _title(item), _unit(item), _words(item, item.old, names), _words(item, item.new, names),
            item.old_source == "default", item.new_source == "default",
        )
        for item in found
    ]  # fmt: skip


def _title(item: Difference) -> str:
    known = {"data.train_dataset": "Dataset", "model.model": "Model", "profile.name": "Profile"}
    return known.get(item.path, item.title)


def _unit(item: Difference) -> str:
    return "" if item.unit == _title(item).lower() else item.unit


def _words(item: Difference, value: Any, names: dict[str, str]) -> str:
    if item.path in OF_DATASETS and str(value) in names:
        return names[str(value)]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("", [], {}, None):
        return "none"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
