"""From canonical text back to an expression: strict, since a program checks models by it. Runs in every process."""

import re

from training.profiles.regime3.expression import (
    MAX_CANONICAL_CHARACTERS,
    MAX_DEPTH,
    Expression,
    NotationError,
    Number,
    Text,
    Value,
    check_length,
    make_call,
    read_number,
    read_quoted,
    too_deep,
)

_NUMBER = re.compile(r"-?\d+(?:\.\d+|/\d+)?", re.ASCII)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPERATOR = re.compile(r"[a-z]+")
_TRUTHS = {"true": True, "false": False}


def decode(text: str) -> Expression:
    """The expression that a canonical text is. Raises NotationError, which names the character."""
    check_length(text, MAX_CANONICAL_CHARACTERS)
    expression, end = read_expression(text, 0)
    if end < len(text):
        raise NotationError(end + 1, f"the expression is over, and {text[end : end + 20]!r} follows.")
    return expression


def read_expression(text: str, start: int, nesting: int = 0) -> tuple[Expression, int]:
    """The expression that begins at the offset `start`, and the offset behind it. Raises NotationError."""
    if nesting > MAX_DEPTH:
        raise too_deep(start + 1)
    if text[start : start + 1] == "(":
        return _call(text, start, nesting)
    if found := _NUMBER.match(text, start):
        return Number(read_number(found[0], start + 1)), found.end()
    if found := _QUOTED.match(text, start):
        return Text(read_quoted(found[0], start + 1)), found.end()
    if start >= len(text):
        raise NotationError(start + 1, "the text ends where an expression is expected.")
    if text[start] == '"':
        raise NotationError(start + 1, "this quote is never closed.")
    raise NotationError(
        start + 1, f"{text[start : start + 20]!r} begins neither a number nor a quoted text nor an expression."
    )


def _call(text: str, start: int, nesting: int) -> tuple[Expression, int]:
    found = _OPERATOR.match(text, start + 1)
    if found is None:
        raise NotationError(start + 2, "an operator's name is expected behind the parenthesis.")
    arguments, place = [], found.end()
    while text[place : place + 1] != ")":
        if place >= len(text):
            raise NotationError(start + 1, "this parenthesis is never closed.")
        if text[place] != " ":
            raise NotationError(place + 1, "one space or a closing parenthesis is expected.")
        argument, place = read_expression(text, place + 1, nesting + 1)
        arguments.append(argument)
    return make_call(found[0], arguments, start + 1), place + 1


def read_value(text: str) -> Value:
    """A result as it is stated: a number, a quoted text, `true` or `false`. Raises NotationError."""
    if text in _TRUTHS:
        return _TRUTHS[text]
    expression = decode(text)
    if isinstance(expression, Number | Text):
        return expression.value
    raise NotationError(1, "a result is a number, a quoted text, true or false, not an expression.")
