"""Which settings differ between two configurations, defaults resolved. Runs in every process; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.config.fields import FieldInfo, fields

OF_THE_RUN = ("output.output_dir", "output.register_as", "locked.")
"""What is each run's own: its folder, the id of its result, what is filled in from its model (compared by its id)."""


@dataclass(frozen=True)
class Difference:
    """One setting that differs. A source is "default" where nobody asked for another value, else "set"."""

    path: str
    title: str
    unit: str
    old: Any
    new: Any
    old_source: str
    new_source: str


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting by its path; what a configuration (nested by section) leaves out has its default.

    Values are as JSON has them: a tuple is a list.
    """
    found = {}
    for field in fields():
        section = config.get(field.section)
        held = section.get(field.name, field.default) if isinstance(section, Mapping) else field.default
        found[field.path] = _plain(held)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """What differs from `old` in `new`, in the order of the schema. Both may be parts of a configuration."""
    before, after = flattened(old), flattened(new)
    return [
        Difference(
            field.path, field.title, field.unit, before[field.path], after[field.path],
            _source(field, before), _source(field, after),
        )
        for field in fields()
        if not field.path.startswith(OF_THE_RUN) and not _equal(before[field.path], after[field.path])
    ]  # fmt: skip


def chosen(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The part of a configuration that differs from the defaults and is a person's choice, nested by section."""
    found: dict[str, dict[str, Any]] = {}
    for difference in differences({}, config):
        section, name = difference.path.split(".")
        found.setdefault(section, {})[name] = difference.new
    return found


def _source(field: FieldInfo, values: Mapping[str, Any]) -> str:
    return "default" if _equal(values[field.path], _plain(field.default)) else "set"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _equal(left: Any, right: Any) -> bool:
    """1 and 1.0 are one setting, 1 and true are not."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)
