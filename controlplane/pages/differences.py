"""How the difference of two configurations is shown: in words, datasets by name. Runs in the web process."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.models import Dataset
from controlplane.pages.numbers import short
from controlplane.row_ids import row_id
from training.config.difference import Difference
from training.config.fields import FieldInfo

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
    names = dataset_names(str(value) for item in found if item.path in OF_DATASETS for value in (item.old, item.new))
    return [
        DifferenceRow(
            item.path, title(item), unit(item), words(item.path, item.old, names), words(item.path, item.new, names),
            item.old_source == "default", item.new_source == "default",
        )
        for item in found
    ]  # fmt: skip


def dataset_names(ids: Iterable[str]) -> dict[str, str]:
    """Datasets by their number as settings have it."""
    return {str(row.pk): str(row) for row in Dataset.objects.filter(pk__in=filter(None, map(row_id, set(ids))))}


def title(item: Difference | FieldInfo) -> str:
    """What a setting is called."""
    known = {"data.train_dataset": "Dataset", "model.model": "Model", "profile.name": "Profile"}
    return known.get(item.path, item.title)


def unit(item: Difference | FieldInfo) -> str:
    """The unit of a setting, where its title doesn't say it already."""
    return "" if title(item).lower().endswith(item.unit) else item.unit


def words(path: str, value: Any, names: Mapping[str, str]) -> str:
    """A setting's value; `names`: those of datasets, by number."""
    if path in OF_DATASETS and str(value) in names:
        return names[str(value)]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("", [], {}, None):
        return "none"
    if isinstance(value, float) and float(short(value)) == value:
        return short(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
