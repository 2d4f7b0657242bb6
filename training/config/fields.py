"""The settings of `TrainerConfig` as a flat list: what the web form, the help text and the docs are made from.

Runs in every process; imports neither torch nor transformers.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import annotated_types

from training.config.schema import TrainerConfig

Kind = Literal["boolean", "integer", "number", "text", "list", "object", "choice"]
_KINDS: dict[Any, Kind] = {bool: "boolean", int: "integer", float: "number", str: "text"}


@dataclass(frozen=True)
class FieldInfo:
    """One setting. `path` is `section.name`; a limit that is exclusive is not itself allowed; `unit` may be empty."""

    section: str
    name: str
    path: str
    kind: Kind
    default: Any
    title: str
    description: str
    unit: str = ""
    minimum: float | None = None
    minimum_exclusive: bool = False
    maximum: float | None = None
    maximum_exclusive: bool = False
    choices: tuple[str, ...] = ()
    locked: bool = False
    advanced: bool = False

    @property
    def inner_title(self) -> str:
        """The title as it stands inside of a sentence: "batch size per device", but "LoRA rank"."""
        return self.title[:1].lower() + self.title[1:] if self.title.split()[0].istitle() else self.title

    @property
    def allowed(self) -> str:
        """What may stand here, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        noun = _NOUNS[self.kind]
        bounds = []
        if self.minimum is not None:
            bounds.append(f"{'above' if self.minimum_exclusive else 'at least'} {_figure(self.minimum)}")
        if self.maximum is not None:
            bounds.append(f"{'below' if self.maximum_exclusive else 'at most'} {_figure(self.maximum)}")
        return " ".join(part for part in (noun, " and ".join(bounds), self.unit) if part)


_NOUNS: dict[Kind, str] = {
    "boolean": "true or false", "integer": "a whole number", "number": "a number", "text": "a text",
    "list": "a list of texts", "object": "an object", "choice": "",
}  # fmt: skip


@dataclass(frozen=True)
class SectionInfo:
    """One section of the configuration and its settings."""

    name: str
    title: str
    description: str
    fields: tuple[FieldInfo, ...]


@lru_cache(maxsize=1)
def sections() -> tuple[SectionInfo, ...]:
    """The sections, in the order of the schema."""
    return tuple(_section(name, settings) for name, settings in get_type_hints(TrainerConfig).items())


@lru_cache(maxsize=1)
def fields() -> tuple[FieldInfo, ...]:
    """Every setting of every section."""
    return tuple(field for section in sections() for field in section.fields)


@lru_cache(maxsize=1)
def by_path() -> dict[str, FieldInfo]:
    """Every setting by its path."""
    return {field.path: field for field in fields()}


def locked_paths() -> tuple[str, ...]:
    """The settings that a continued model takes from its parent."""
    return tuple(field.path for field in fields() if field.locked)


def _section(name: str, settings: type[Any]) -> SectionInfo:
    hints = get_type_hints(settings, include_extras=True)
    found = tuple(_field(name, field, hints[field.name]) for field in dataclasses.fields(settings))
    return SectionInfo(name, name.capitalize(), (settings.__doc__ or "").strip(), found)


def _field(section: str, field: dataclasses.Field[Any], hint: Any) -> FieldInfo:
    annotation, about = get_args(hint)[:2]
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    extra = about.json_schema_extra
    return FieldInfo(
        section=section,
        name=field.name,
        path=f"{section}.{field.name}",
        kind="choice" if choices else _kind(annotation),
        default=_default(field),
        title=about.title or field.name.replace("_", " ").capitalize(),
        description=about.description,
        choices=choices,
        **extra,
        **_limits(about.metadata),
    )


def _kind(annotation: Any) -> Kind:
    if annotation in _KINDS:
        return _KINDS[annotation]
    origin = get_origin(annotation)
    if origin in (tuple, list):
        return "list"
    if origin is dict:
        return "object"
    raise TypeError(f"no form for {annotation}" if not isinstance(annotation, UnionType) else "no form for a union")


def _default(field: dataclasses.Field[Any]) -> Any:
    default = field.default
    if default is dataclasses.MISSING:
        return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    if hasattr(default, "get_default"):
        return default.get_default(call_default_factory=True)
    return default


def _limits(metadata: list[Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for item in metadata:
        match item:
            case annotated_types.Ge(ge=value):
                limits.update(minimum=value)
            case annotated_types.Gt(gt=value):
                limits.update(minimum=value, minimum_exclusive=True)
            case annotated_types.Le(le=value):
                limits.update(maximum=value)
            case annotated_types.Lt(lt=value):
                limits.update(maximum=value, maximum_exclusive=True)
    return limits


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else f"{value:g}"
