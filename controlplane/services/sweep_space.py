"""What a sweep of runs tries: settings and the values they may take, read and checked. Runs in the web process."""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models.run_sweeps import SweepMethod
from training.config.fields import FieldInfo, by_path
from training.config.loader import ConfigError, parse_config

MAX_FIELDS = 10
MAX_VALUES = 100
MAX_COMBINATIONS = 1000
SAID_ONCE = frozenset({
    "data.train_dataset", "data.eval_dataset", "model.model", "model.chain", "profile.name",
    "output.output_dir", "output.register_as",
})  # fmt: skip
"""What all runs of a sweep share, or what each chooses for itself."""


@dataclass(frozen=True)
class Dimension:
    """A setting and what it may be: `values`, or from `low` to `high`, in steps or evenly on a logarithmic scale."""

    field: str
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether a range holds whole numbers alone."""
        return by_path()[self.field].kind == "integer"

    def to_json(self) -> dict[str, Any]:
        """As it is stored and as the API tells it."""
        if self.values:
            return {"field": self.field, "values": list(self.values)}
        return {"field": self.field, "low": self.low, "high": self.high, "step": self.step, "log": self.log}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> "Dimension":
        """Reads what was stored."""
        return cls(**{**item, "values": tuple(item.get("values") or ())})

    def extremes(self) -> tuple[Any, ...]:
        """Every value, or the two ends of a range."""
        return self.values or (self.low, self.high)


def merged(config: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the settings of `params` (by path) put into it."""
    whole = {section: dict(values) for section, values in config.items()}
    for path, value in params.items():
        section, name = path.split(".")
        whole.setdefault(section, {})[name] = value
    return whole


def check(space: Sequence[Mapping[str, Any]], method: str, config: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions that were asked for. Raises InvalidInputError with the place of what can't be tried.

    Settings that are each allowed but not together are found too: every combination of a grid is looked at, of ranges
    their ends.
    """
    if not 1 <= len(space) <= MAX_FIELDS:
        raise InvalidInputError(
            f"A sweep varies 1 to {MAX_FIELDS} settings, not {len(space)}.",
            (FieldFault("space", f"1 to {MAX_FIELDS}"),),
        )
    dimensions: list[Dimension] = []
    for index, item in enumerate(space):
        try:
            dimensions.append(_dimension(item, method, {known.field for known in dimensions}))
        except ValueError as error:
            raise _refusal(index, str(item.get("field")), str(error)) from None
    if method == SweepMethod.GRID and grid_size(dimensions) > MAX_COMBINATIONS:
        message = f"This grid has {grid_size(dimensions):,} combinations, more than {MAX_COMBINATIONS:,}."
        raise InvalidInputError(f"{message} Take fewer values, or the method tpe.", (FieldFault("space", message),))
    for params in _combinations(dimensions):
        try:
            parse_config(merged(config, params))
        except ConfigError as error:
            fault = next((known for known in error.faults if known.path in params), error.faults[0])
            index = next((place for place, known in enumerate(dimensions) if known.field == fault.path), 0)
            told = ", ".join(f"{path} {value!r}" for path, value in params.items())
            raise _refusal(index, fault.path, f"{fault.message} (tried: {told})") from None
    return dimensions


def grid_size(dimensions: Sequence[Dimension]) -> int:
    """How many combinations a grid has."""
    return math.prod(len(dimension.values) for dimension in dimensions)


def read_value(field: FieldInfo | None, text: str) -> Any:
    """What a typed text means for a setting; what can't be read stays text, and `check` refuses it."""
    text = text.strip()
    try:
        match field.kind if field else "text":
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "boolean":
                return {"true": True, "false": False, "yes": True, "no": False}.get(text.lower(), text)
    except ValueError:
        pass
    return text


def _refusal(index: int, path: str, message: str) -> InvalidInputError:
    return InvalidInputError(f"The sweep can't vary {path}: {message}", (FieldFault(f"space.{index}", message),))


def _dimension(item: Mapping[str, Any], method: str, known: set[str]) -> Dimension:
    """One dimension. Raises ValueError with a sentence."""
    field = _field(str(item.get("field", "")), known)
    values = item.get("values") or []
    low, high = item.get("low"), item.get("high")
    if bool(values) == (low is not None or high is not None):
        raise ValueError("Give either values, or both low and high.")
    if values:
        return Dimension(field.path, _values(field, values))
    dimension = _range(field, low, high, item.get("step"), log=bool(item.get("log")))
    return _stepped(dimension) if method == SweepMethod.GRID else dimension


def _field(path: str, known: set[str]) -> FieldInfo:
    field = by_path().get(path)
    if field is None:
        near = difflib.get_close_matches(path, by_path(), n=1, cutoff=0.5)
        raise ValueError("There is no such setting." + (f" Did you mean {near[0]}?" if near else ""))
    if path in known:
        raise ValueError("It is named twice.")
    if path in SAID_ONCE:
        raise ValueError("It isn't a thing to vary: all runs of a sweep share it.")
    if field.locked:
        raise ValueError("It is locked: a continued model takes it from its parent.")
    if field.kind in ("list", "object"):
        raise ValueError("Only settings with a single value can be varied.")
    return field


def _values(field: FieldInfo, values: Sequence[Any]) -> tuple[Any, ...]:
    if len(values) > MAX_VALUES:
        raise ValueError(f"Give at most {MAX_VALUES} values.")
    if any(isinstance(value, (list, dict)) or value is None for value in values):
        raise ValueError(f"Each value must be {field.allowed}.")
    found = tuple(_number(field, value) for value in values)
    if len(set(map(repr, found))) < len(found):
        raise ValueError("A value is named twice.")
    return found


def _range(field: FieldInfo, low: Any, high: Any, step: Any, *, log: bool) -> Dimension:
    if field.kind not in ("integer", "number"):
        raise ValueError(f"A range needs numbers, and this is {field.allowed}: give values.")
    ends = (low, high) if step is None else (low, high, step)
    numbers = [_number(field, end) for end in ends]
    wanted = int if field.kind == "integer" else float
    if not all(type(number) is wanted and math.isfinite(number) for number in numbers):
        noun = "whole numbers" if field.kind == "integer" else "numbers"
        raise ValueError(f"low, high and step must be {noun}.")
    if not numbers[0] < numbers[1]:
        raise ValueError(f"low ({numbers[0]:g}) must be below high ({numbers[1]:g}).")
    if log and numbers[0] <= 0:
        raise ValueError("A logarithmic scale needs a low above 0.")
    if log and step is not None:
        raise ValueError("A logarithmic scale has no step.")
    if step is not None and not 0 < numbers[2] <= numbers[1] - numbers[0]:
        raise ValueError("The step must be above 0, and no wider than the range.")
    return Dimension(field.path, (), numbers[0], numbers[1], numbers[2] if step is not None else None, log)


def _stepped(dimension: Dimension) -> Dimension:
    """A range of a grid as the values that it means."""
    low, high, step = dimension.low or 0.0, dimension.high or 0.0, dimension.step
    if step is None:
        raise ValueError("A grid needs values, or a step beside low and high.")
    count = math.floor((high - low) / step + 1e-9) + 1
    if count > MAX_VALUES:
        raise ValueError(f"That makes {count:,} values, more than {MAX_VALUES}: widen the step.")
    values = (low + index * step for index in range(count))
    return Dimension(
        dimension.field, tuple(value if dimension.is_whole else float(f"{value:.12g}") for value in values)
    )


def _number(field: FieldInfo, value: Any) -> Any:
    """JSON has one kind of number: 1 is a number too, and 4.0 a whole one."""
    if field.kind == "number" and type(value) is int:
        return float(value)
    if field.kind == "integer" and type(value) is float and value.is_integer():
        return int(value)
    return value


def _combinations(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Any]]:
    """Every value once beside the first ones of the others, then all of them together up to a limit."""
    first = {dimension.field: dimension.extremes()[0] for dimension in dimensions}
    for dimension in dimensions:
        for value in dimension.extremes():
            yield {**first, dimension.field: value}
    every = itertools.product(*(dimension.extremes() for dimension in dimensions))
    for values in itertools.islice(every, MAX_COMBINATIONS):
        yield dict(zip(first, values, strict=True))
