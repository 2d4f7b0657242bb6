"""JSON bodies of both APIs, read strictly. Runs in the web process.

Python's own reader takes what no other reader takes (NaN, halves of characters) and falls over what is nested without
end; whoever stores or passes on such a value falls over it later. Here it is bad input, and named.
"""

import json
import math
from typing import Any

from django.http import HttpRequest
from ninja.parser import Parser

from controlplane.errors import FieldFault, InvalidInputError

ESCAPED = b"\\u"
"""Without such an escape a text can hold neither a NUL nor half of a character: the body is UTF-8."""

LOOKED_AT = (dict, list, str, float)
LONGEST_PATH = 200

_Place = tuple["_Place", str | int] | None
"""Where a value stands: its container's place and its name or number there; None for the whole body."""


def read_json(raw: bytes) -> Any:
    """The value of a body. Raises InvalidInputError for what is no JSON, or holds a value that can't be kept."""
    endless: list[str] = []

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            endless.append(text)
        return value

    try:
        value = json.loads(raw.decode(), parse_float=number, parse_constant=number)
    except ValueError as error:
        raise InvalidInputError(f"The body can't be read as JSON: {error}.") from error
    except RecursionError as error:
        raise InvalidInputError("The body is nested too deeply: send fewer brackets within brackets.") from error
    if endless or ESCAPED in raw:  # else nothing that can't be kept can be in it
        _refuse_what_cannot_be_kept(value)
    return value


def _refuse_what_cannot_be_kept(whole: Any) -> None:
    """Looks at every value, those deep inside too, without a call for each. A place is spelled only to be refused."""
    left: list[tuple[_Place, Any]] = [(None, whole)]
    while left:
        place, value = left.pop()
        if isinstance(value, dict):
            _refuse_text(place, "".join(value))
            left.extend(((place, name), item) for name, item in value.items() if isinstance(item, LOOKED_AT))
        elif isinstance(value, list):
            left.extend(((place, index), item) for index, item in enumerate(value) if isinstance(item, LOOKED_AT))
        elif isinstance(value, str):
            _refuse_text(place, value)
        elif isinstance(value, float) and not math.isfinite(value):
            path = _path(place)
            raise InvalidInputError(
                f"{path or 'The body'} must be a number, not {value}: JSON knows no such value.",
                (FieldFault(path, "a finite number"),),
            )


def _path(place: "_Place") -> str:
    """A place as people write it, its outermost part cut off where it is long."""
    names: list[str] = []
    while place is not None and sum(map(len, names)) < LONGEST_PATH:
        place, name = place
        names.append(str(name)[:LONGEST_PATH])
    return ".".join(reversed(names))


def _refuse_text(place: "_Place", text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        whole = False
    else:
        whole = "\0" not in text
    if not whole:
        path = _path(place)
        raise InvalidInputError(
            f"{path or 'The body'} holds a NUL, or half of a character (a lone surrogate), which no text has.",
            (FieldFault(path, "text without NUL and lone surrogates"),),
        )


class StrictParser(Parser):
    """Ninja's parser, with bodies as `read_json` reads them."""

    def parse_body(self, request: HttpRequest) -> Any:
        """The body's value."""
        return read_json(request.body)
