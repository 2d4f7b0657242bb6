"""What an answer of `regime3` states, between its two markers. Runs in every process."""

import re
from itertools import pairwise
from typing import NamedTuple

from training.profiles.regime3.decode import read_expression, read_value
from training.profiles.regime3.expression import (
    MAX_CANONICAL_CHARACTERS,
    Expression,
    NotationError,
    Value,
    check_length,
)

START, END = "<<ANS_START>>", "<<ANS_END>>"
_MARKER = re.compile(f"{START}|{END}")
_EQUALS = " = "


class Statement(NamedTuple):
    """An expression and what it is said to come to."""

    expression: Expression
    result: Value


def with_one_pair(answer: str) -> str:
    """The answer with exactly one pair of markers.

    Of several pairs the last stays; a missing half is added; an answer with none is wrapped whole.
    """
    while (cleaned := _without_others(answer)) != answer:  # what is left on both sides of one could make another
        answer = cleaned
    found = _MARKER.findall(answer)
    if found == [START, END]:
        return answer
    if found == [START]:
        return f"{answer.rstrip()} {END}"
    if found == [END]:
        return f"{START} {answer.lstrip()}"
    return f"{START} {answer.strip()} {END}"


def between(answer: str) -> str | None:
    """The text between the markers; None where there isn't exactly one pair."""
    if _MARKER.findall(answer) != [START, END]:
        return None
    return answer.partition(START)[2].partition(END)[0].strip()


def read_statement(text: str) -> Statement:
    """`(add 2 3) = 5` as its two halves. Raises NotationError, which names the character."""
    check_length(text, MAX_CANONICAL_CHARACTERS)
    expression, end = read_expression(text, 0)
    if not text.startswith(_EQUALS, end):
        raise NotationError(end + 1, "the expression is followed by no result: write ' = ' and what it comes to.")
    end += len(_EQUALS)
    try:
        return Statement(expression, read_value(text[end:]))
    except NotationError as error:
        raise NotationError(end + error.position, error.problem) from None


def _without_others(answer: str) -> str:
    """The answer without the markers that don't belong to its last pair, or its last lonely half."""
    markers = list(_MARKER.finditer(answer))
    pairs = [
        (one, other)
        for one, other in pairwise(markers)
        if (one[0], other[0]) == (START, END)
    ]  # fmt: skip
    kept = set(pairs[-1]) if pairs else set(markers[-1:]) if len({marker[0] for marker in markers}) == 1 else set()
    pieces, place = [], 0
    for marker in markers:
        if marker not in kept:
            pieces.append(answer[place : marker.start()])
            place = marker.end()
    return "".join([*pieces, answer[place:]])
