"""An expression of `regime3`, its operators, and its one spelling. Runs in every process.

An expression is a number, a quoted text, or `(op arg1 arg2 ...)`: prefix, one space between parts. Numbers are exact:
`5`, `-5`, `5/2`, and `2.5` is read as the latter.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

MAX_DEPTH = 100
MAX_INFIX_CHARACTERS = 10_000
MAX_CANONICAL_CHARACTERS = 50_000
MAX_NUMBER_CHARACTERS = 1_000
"""Python itself refuses to spell numbers of more than 4,300 digits."""

ARGUMENTS: Final[dict[str, tuple[int, int | None]]] = {
    "add": (2, None), "sub": (2, 2), "mul": (2, None), "div": (2, 2), "pow": (2, 2), "mod": (2, 2), "neg": (1, 1),
    "eq": (2, 2), "ne": (2, 2), "lt": (2, 2), "le": (2, 2), "gt": (2, 2), "ge": (2, 2),
    "and": (2, None), "or": (2, None), "not": (1, 1), "true": (0, 0), "false": (0, 0),
}  # fmt: skip
"""Each operator with how many arguments it takes, at least and at most (None: as many as there are)."""

ASSOCIATIVE = frozenset({"add", "mul", "and", "or"})
"""Those whose chains become one expression: 1 + 2 + 3 is (add 1 2 3)."""

Value = Fraction | bool | str


class NotationError(ValueError):
    """A text that can't be read. `position` counts its characters from 1."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(f"At character {position}: {problem}")
        self.position = position
        self.problem = problem


@dataclass(frozen=True)
class Number:
    """An exact number."""

    value: Fraction

    @property
    def depth(self) -> int:
        return 0

    @property
    def length(self) -> int:
        """Characters of its canonical text."""
        return len(spell(self.value))


@dataclass(frozen=True)
class Text:
    """A quoted text, without its quotes."""

    value: str

    @property
    def depth(self) -> int:
        return 0

    @property
    def length(self) -> int:
        """Characters of its canonical text."""
        return len(spell(self.value))


@dataclass(frozen=True)
class Call:
    """An operator with its arguments. `depth` counts the calls on the longest way down, this one included; `length`
    the characters of the canonical text, which is long where a short chain of comparisons says everything twice."""

    operator: str
    arguments: "tuple[Expression, ...]"
    depth: int = field(init=False, repr=False, compare=False)
    length: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        deepest = max((argument.depth for argument in self.arguments), default=0)
        length = len(self.operator) + 2 + sum(argument.length + 1 for argument in self.arguments)
        object.__setattr__(self, "depth", deepest + 1)
        object.__setattr__(self, "length", length)


Expression = Number | Text | Call


def make_call(operator: str, arguments: Sequence[Expression], position: int) -> Call:
    """A call that is right in form. Raises NotationError for `position`."""
    if operator not in ARGUMENTS:
        known = ", ".join(ARGUMENTS)
        raise NotationError(position, f"there is no operator {operator!r}. Known are {known}.")
    least, most = ARGUMENTS[operator]
    if not least <= len(arguments) <= (len(arguments) if most is None else most):
        wanted = f"{least}" if most == least else f"{least} or more"
        raise NotationError(position, f"{operator} takes {wanted} arguments, not {len(arguments)}.")
    call = Call(operator, tuple(arguments))
    if call.depth > MAX_DEPTH:
        raise too_deep(position)
    if call.length > MAX_CANONICAL_CHARACTERS:
        raise too_long(position, MAX_CANONICAL_CHARACTERS)
    return call


def too_deep(position: int) -> NotationError:
    """What is nested deeper than anybody would write."""
    return NotationError(position, f"the expression nests deeper than {MAX_DEPTH}. Divide it into smaller ones.")


def too_long(position: int, most: int) -> NotationError:
    """What has more characters than anybody would write."""
    return NotationError(position, f"the expression has more than {most:,} characters. Divide it into smaller ones.")


def check_length(text: str, most: int) -> None:
    """Raises NotationError for a text that is too long to be read."""
    if len(text) > most:
        raise too_long(most + 1, most)


def read_number(literal: str, position: int) -> Fraction:
    """`5`, `-5`, `2.5` or `5/2` as an exact number. Raises NotationError."""
    if len(literal) > MAX_NUMBER_CHARACTERS:
        raise NotationError(position, f"a number has at most {MAX_NUMBER_CHARACTERS:,} characters.")
    try:
        return Fraction(literal)
    except ZeroDivisionError:
        raise NotationError(position, f"{literal} divides by zero.") from None


def read_quoted(quoted: str, position: int) -> str:
    """The text within quotes, escapes as in JSON. Raises NotationError."""
    try:
        text = json.loads(quoted)
        text.encode()
    except ValueError:
        raise NotationError(
            position, "the quoted text has an escape that JSON doesn't know, or a line break. Write \\n or \\u0041."
        ) from None
    return str(text)


def spell(value: Value) -> str:
    """A value as it stands in canonical text: `5/2`, `true`, `"tide"`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def canonical(expression: Expression) -> str:
    """The one spelling of an expression; `decode` reads it back."""
    if isinstance(expression, Call):
        return f"({' '.join([expression.operator, *map(canonical, expression.arguments)])})"
    return spell(expression.value)
