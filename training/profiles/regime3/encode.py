"""From infix arithmetic and simple logic to the canonical form of `regime3`. Runs in every process.

Precedence is Python's, from loose to tight: `or`, `and`, `not`, comparisons (which chain), `+ -`, `* / %`, unary minus,
`^` (which groups from the right). `**`, `×`, `·`, `÷`, `−`, `≠`, `≤`, `≥` and `=` are taken for what they mean.
"""

import re
from typing import Final, NamedTuple

from training.profiles.regime3.expression import (
    ASSOCIATIVE,
    MAX_DEPTH,
    MAX_INFIX_CHARACTERS,
    Call,
    Expression,
    NotationError,
    Number,
    Text,
    canonical,
    check_length,
    make_call,
    read_number,
    read_quoted,
    too_deep,
)

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)
    | (?P<quoted>"(?:[^"\\]|\\.)*")
    | (?P<word>[A-Za-z]+)
    | (?P<sign>\*\*|==|!=|<=|>=|[-+*/^%()<>=×·÷−≠≤≥])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_OTHER_SPELLINGS: Final = {
    "**": "^", "×": "*", "·": "*", "÷": "/", "−": "-", "=": "==", "≠": "!=", "≤": "<=", "≥": ">=",
}  # fmt: skip
_NOT, _COMPARISON, _UNARY = 3, 4, 7
_BINARY: Final[dict[str, tuple[str, int]]] = {
    "or": ("or", 1), "and": ("and", 2),
    "==": ("eq", _COMPARISON), "!=": ("ne", _COMPARISON), "<": ("lt", _COMPARISON), "<=": ("le", _COMPARISON),
    ">": ("gt", _COMPARISON), ">=": ("ge", _COMPARISON),
    "+": ("add", 5), "-": ("sub", 5), "*": ("mul", 6), "/": ("div", 6), "%": ("mod", 6), "^": ("pow", 8),
}  # fmt: skip
"""Each sign with its operator and how tightly it binds."""


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def encode(infix: str) -> str:
    """The canonical form of an infix expression: "2 + 3 * 4" becomes "(add 2 (mul 3 4))". Raises NotationError."""
    return canonical(parse_infix(infix))


def parse_infix(infix: str) -> Expression:
    """An infix expression as a tree. Raises NotationError, which names the character."""
    check_length(infix, MAX_INFIX_CHARACTERS)
    return _Parser(infix).whole()


class _Parser:
    """Precedence climbing over one text; `_nesting` counts the parentheses and signs that are open."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = self._read(0)
        self._nesting = 0

    def whole(self) -> Expression:
        """The expression that the text is, to its last character."""
        found = self._expression(0)
        if self._next.kind != "end":
            raise NotationError(
                self._next.position, f"{self._next.text!r} stands where an operator or the end is expected."
            )
        return found

    def _read(self, start: int) -> _Token:
        found = _TOKEN.match(self._text, start)
        if found is None or found.lastgroup is None:
            position = start + len(self._text[start:]) - len(self._text[start:].lstrip())
            character = self._text[position]
            what = "this quote is never closed." if character == '"' else f"{character!r} has no meaning here."
            raise NotationError(position + 1, what)
        kind = found.lastgroup
        text = found[kind].lower() if kind == "word" else found[kind]
        self._end = found.end()
        return _Token(kind, _OTHER_SPELLINGS.get(text, text), found.start(kind) + 1)

    def _take(self) -> _Token:
        token = self._next
        self._next = self._read(self._end)
        return token

    def _expression(self, least: int) -> Expression:
        """All that binds at least as tightly as `least`."""
        self._nesting += 1
        if self._nesting > MAX_DEPTH:
            raise too_deep(self._next.position)
        left = self._prefix(least)
        while (binary := _BINARY.get(self._next.text)) is not None and binary[1] >= least:
            operator, tightness = binary
            left = self._comparisons(left) if tightness == _COMPARISON else self._chain(operator, tightness, left)
        self._nesting -= 1
        return left

    def _chain(self, operator: str, tightness: int, left: Expression) -> Expression:
        """What stands right of `left` and of the same operator behind it: 1 + 2 + 3 is one expression."""
        operands = [left]
        if operator in ASSOCIATIVE and isinstance(left, Call) and left.operator == operator:
            operands = list(left.arguments)
        position = self._next.position
        while (binary := _BINARY.get(self._next.text)) is not None and binary[0] == operator:
            position = self._take().position
            # What is right of ^ may begin with a minus and groups from the right: 2^-3^2 is 2^(-(3^2)).
            operands.append(self._expression(_UNARY if operator == "pow" else tightness + 1))
            if operator not in ASSOCIATIVE:
                break
        return make_call(operator, operands, position)

    def _prefix(self, least: int) -> Expression:
        token = self._take()
        if token.text == "-":
            operand = self._expression(_UNARY)
            if isinstance(operand, Number) and operand.value > 0:
                return Number(-operand.value)
            return make_call("neg", [operand], token.position)
        if token.text == "+":
            return self._expression(_UNARY)
        if token.text == "not":
            if least > _NOT:
                raise NotationError(token.position, "not binds loosely: put it and what it negates in parentheses.")
            return make_call("not", [self._expression(_NOT)], token.position)
        return self._atom(token)

    def _atom(self, token: _Token) -> Expression:
        if token.kind == "number":
            return Number(read_number(token.text, token.position))
        if token.kind == "quoted":
            return Text(read_quoted(token.text, token.position))
        if token.text in ("true", "false"):
            return make_call(token.text, [], token.position)
        if token.text == "(":
            found = self._expression(0)
            if self._next.text != ")":
                raise NotationError(token.position, "this parenthesis is never closed.")
            self._take()
            return found
        if token.kind == "end":
            raise NotationError(token.position, "the expression ends where a value is expected.")
        raise NotationError(token.position, f"{token.text!r} stands where a value is expected.")

    def _comparisons(self, first: Expression) -> Expression:
        """a < b < c as Python has it: a < b and b < c."""
        left, pairs, position = first, [], self._next.position
        while (binary := _BINARY.get(self._next.text)) is not None and binary[1] == _COMPARISON:
            token = self._take()
            right = self._expression(_COMPARISON + 1)
            pairs.append(make_call(binary[0], [left, right], token.position))
            left = right
        return pairs[0] if len(pairs) == 1 else make_call("and", pairs, position)
