"""The exact value of an expression: fractions, truth values, texts. Runs in every process; always comes to an end.

`and` and `or` look no further than they need, as in Python; `mod` has the sign of its divisor, as there.
"""

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Final

from training.profiles.regime3.expression import Call, Expression, Value

MAX_BITS = 8192
"""The longest numerator or denominator of any result on the way: about 2,466 digits."""


class EvaluationError(ArithmeticError):
    """An expression that is right in form and has no value here."""


class DivisionByZeroError(EvaluationError):
    """A divisor is 0."""


class TooLargeError(EvaluationError):
    """A result has more digits than are computed."""


class InexactError(EvaluationError):
    """A result that no fraction is equal to."""


class WrongKindError(EvaluationError):
    """A number, a text or a truth value stands where another kind is needed."""


_COMPARISONS: Final[dict[str, Callable[[Value, Value], bool]]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def evaluate(expression: Expression) -> Value:
    """What an expression comes to. Raises an EvaluationError."""
    if not isinstance(expression, Call):
        return expression.value
    name, arguments = expression.operator, expression.arguments
    if name in ("true", "false"):
        return name == "true"
    if name in ("and", "or"):
        return _until(name == "or", name, arguments)
    values = [evaluate(argument) for argument in arguments]
    if name == "not":
        return not _truth(values[0], name)
    if name in _COMPARISONS:
        return _compare(name, values[0], values[1])
    return _compute(name, [_number(value, name) for value in values])


def _until(decisive: bool, name: str, arguments: tuple[Expression, ...]) -> bool:
    """Whether any argument has the decisive value: what it makes of the whole."""
    return decisive if any(_truth(evaluate(one), name) is decisive for one in arguments) else not decisive


def _compare(name: str, left: Value, right: Value) -> bool:
    if type(left) is not type(right):
        raise WrongKindError(f"{name} compares {_kind(left)} with {_kind(right)}.")
    if isinstance(left, bool) and name not in ("eq", "ne"):
        raise WrongKindError(f"{name} needs numbers or texts: truth values are only equal or not.")
    return _COMPARISONS[name](left, right)


def _compute(name: str, numbers: list[Fraction]) -> Fraction:
    first = numbers[0]
    if name == "neg":
        return -first
    for number in numbers[1:]:
        first = _bounded(_combined(name, first, number), name)
    return first


def _combined(name: str, left: Fraction, right: Fraction) -> Fraction:
    if name in ("div", "mod") and right == 0:
        raise DivisionByZeroError(f"{name} divides {_short(left)} by zero.")
    match name:
        case "add":
            return left + right
        case "sub":
            return left - right
        case "mul":
            return left * right
        case "div":
            return left / right
        case "mod":
            return left % right
        case _:
            return _power(left, right)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise InexactError(f"pow raises {_short(base)} to {_short(exponent)}: only whole exponents are exact.")
    if base == 0 and exponent < 0:
        raise DivisionByZeroError(f"pow raises 0 to {_short(exponent)}, which divides by zero.")
    if abs(base) in (0, 1):  # whatever the exponent; Python would count through all its bits
        return base if exponent % 2 or base == 1 else base**2 if exponent else Fraction(1)
    bits = max(abs(base.numerator).bit_length(), base.denominator.bit_length()) - 1
    if bits * abs(exponent) > MAX_BITS:
        raise _too_large("pow")
    return Fraction(base**exponent.numerator)


def _bounded(number: Fraction, name: str) -> Fraction:
    if max(abs(number.numerator).bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise _too_large(name)
    return number


def _too_large(name: str) -> TooLargeError:
    return TooLargeError(f"{name} comes to a number of more than {MAX_BITS} bits, which is not computed.")


def _number(value: Value, name: str) -> Fraction:
    if not isinstance(value, Fraction):
        raise WrongKindError(f"{name} needs numbers, not {_kind(value)}.")
    return value


def _truth(value: Value, name: str) -> bool:
    if not isinstance(value, bool):
        raise WrongKindError(f"{name} needs true or false, not {_kind(value)}. Compare it with something.")
    return value


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "a truth value"
    return "a text" if isinstance(value, str) else "a number"


def _short(number: Fraction) -> str:
    text = str(number)
    return text if len(text) <= 20 else f"{text[:17]}..."
