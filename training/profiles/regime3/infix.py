"""An expression as people write it, with no more parentheses than it needs. Runs in every process.

`encode` of this text has the same value as the expression.
"""

from typing import Final

from training.profiles.regime3.expression import Call, Expression, Number, spell

_SIGNS: Final[dict[str, tuple[str, int]]] = {
    "or": ("or", 1), "and": ("and", 2), "eq": ("==", 4), "ne": ("!=", 4), "lt": ("<", 4), "le": ("<=", 4),
    "gt": (">", 4), "ge": (">=", 4), "add": ("+", 5), "sub": ("-", 5), "mul": ("*", 6), "div": ("/", 6),
    "mod": ("%", 6), "pow": ("^", 8),
}  # fmt: skip
_NOT, _UNARY, _ATOM = 3, 7, 9


def infix(expression: Expression) -> str:
    """`(mul 2 (add 3 4))` as "2 * (3 + 4)"."""
    return _written(expression)[0]


def _written(expression: Expression) -> tuple[str, int]:
    """The text, and how tightly its outermost operator binds."""
    if isinstance(expression, Number):
        return _number(expression)
    if not isinstance(expression, Call):
        return spell(expression.value), _ATOM
    name, arguments = expression.operator, expression.arguments
    if not arguments:
        return name, _ATOM
    if name == "not":
        return f"not {_within(arguments[0], _NOT)}", _NOT
    if name == "neg":
        return f"-{_within(arguments[0], _UNARY)}", _UNARY
    sign, tightness = _SIGNS[name]
    first, rest = tightness, tightness + 1
    if name == "pow":
        first, rest = _ATOM, _UNARY
    elif tightness == _SIGNS["eq"][1]:  # a == b == c would be a chain
        first = rest
    parts = [_within(arguments[0], first), *(_within(argument, rest) for argument in arguments[1:])]
    return f" {sign} ".join(parts), tightness


def _number(expression: Number) -> tuple[str, int]:
    value = expression.value
    if value.denominator != 1:
        return spell(value), _SIGNS["div"][1]
    return spell(value), _ATOM if value >= 0 else _UNARY


def _within(expression: Expression, least: int) -> str:
    text, tightness = _written(expression)
    return text if tightness >= least else f"({text})"
