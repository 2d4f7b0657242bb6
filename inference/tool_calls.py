"""Tool calls in the text of an answer, found as the text grows. Runs in the inference process.

The engine holds calls to one form (`inference.engine.constraints`), so what comes behind an opening tag is known; a
call that `max_tokens` cuts off has the arguments that it got so far.
"""

import re
import uuid
from dataclasses import dataclass, field

from inference.engine.constraints import CALL_OPENING, END_OF_CALL
from inference.engine.stopping import unfinished

_HEAD = re.compile(r'\n\{"name": "([^"]+)", "arguments": ')


@dataclass
class ToolCall:
    """A call; `arguments` is JSON as far as it has come."""

    name: str
    arguments: str = ""
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")


@dataclass(frozen=True)
class CallPiece:
    """What is new of the call at `index`: its beginning (`opened`), or more of its arguments, or both."""

    index: int
    opened: ToolCall | None
    arguments: str


class ToolCallReader:
    """Parts one answer into words and calls. Blanks between words and a call, and between calls, belong to neither.

    Where it `is_either`, an answer is words or calls, never both: in words that don't begin with a tag there is no
    call, even if a tag stands in them (in a string of the JSON that was asked for).
    """

    def __init__(self, *, is_either: bool = False) -> None:
        self.calls: list[ToolCall] = []
        self._held = ""
        self._blanks = ""
        self._state = self._beginning if is_either else self._words

    def push(self, text: str) -> tuple[str, list[CallPiece]]:
        """Takes new text; returns the words and the pieces of calls that are certain by it."""
        self._held += text
        words, pieces = "", []
        state = None
        while state != self._state:
            state = self._state
            said, piece = state()
            words += said
            pieces += [piece] if piece else []
        return words, joined(pieces)

    def finish(self) -> tuple[str, list[CallPiece]]:
        """What was held back at the end of the text."""
        rest, self._held = self._held, ""
        if self._state == self._head and not self.calls:  # cut off before it had a name
            return self._blanks + CALL_OPENING + rest, []
        if self._state in (self._beginning, self._words):
            return (rest if not self.calls else ""), []
        if self._state == self._arguments and rest:
            self.calls[-1].arguments += rest
            return "", [CallPiece(len(self.calls) - 1, None, rest)]
        return "", []

    def _beginning(self) -> tuple[str, CallPiece | None]:
        if len(self._held) >= len(CALL_OPENING) or not CALL_OPENING.startswith(self._held):
            self._state = self._words if self._held.startswith(CALL_OPENING) else self._words_alone
        return "", None

    def _words_alone(self) -> tuple[str, CallPiece | None]:
        said, self._held = self._held, ""
        return said, None

    def _words(self) -> tuple[str, CallPiece | None]:
        before, tag, behind = self._held.partition(CALL_OPENING)
        if tag:
            self._held, self._state = behind, self._head
            said = before.rstrip()
            self._blanks = before[len(said) :]
            return ("" if self.calls else said), None
        if self.calls:  # line breaks between calls
            return "", None
        kept = len(before) - unfinished(before, [CALL_OPENING])
        kept = len(before[:kept].rstrip())
        self._held = before[kept:]
        return before[:kept], None

    def _head(self) -> tuple[str, CallPiece | None]:
        match = _HEAD.match(self._held)
        if match is None:
            return "", None
        self._held, self._state = self._held[match.end() :], self._arguments
        self.calls.append(ToolCall(match.group(1)))
        return "", CallPiece(len(self.calls) - 1, self.calls[-1], "")

    def _arguments(self) -> tuple[str, CallPiece | None]:
        given, end, behind = self._held.partition(END_OF_CALL)
        if end:
            self._held, self._state = behind, self._words
        else:
            given = given[: len(given) - unfinished(given, [END_OF_CALL])]
            self._held = self._held[len(given) :]
        if not given:
            return "", None
        self.calls[-1].arguments += given
        return "", CallPiece(len(self.calls) - 1, None, given)


def joined(pieces: list[CallPiece]) -> list[CallPiece]:
    """One piece a call: clients take the first of an event for the whole."""
    joined: dict[int, CallPiece] = {}
    for piece in pieces:
        before = joined.get(piece.index)
        opened = before.opened if before else piece.opened
        joined[piece.index] = CallPiece(piece.index, opened, (before.arguments if before else "") + piece.arguments)
    return list(joined.values())
