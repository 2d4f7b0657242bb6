"""What a line of a log says, once a terminal's colours and redrawings are gone, and how grave it is.

Runs in the agent; standard library only. The web process knows the levels and the most lines from here.
"""

import re

LEVELS = ("debug", "info", "warning", "error")
"""In order of gravity."""

LINE_BYTES = 16 << 10
"""More of one line is left out."""

MAX_LINES = 1000
"""How many lines may be asked for at once."""

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\|$)|[@-Z\\^_]|$)?")
"""Colours and movements of the cursor (ECMA-48), titles of windows, and what a cut has left of them."""

WORD = re.compile(r"(?:\S+\s+){0,4}?[\[(<|]?(DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b")
FAULT = re.compile(r"Traceback \(most recent call last\)|[A-Za-z_][\w.]*(?:Error|Exception)\b(?::|$)")
ADVICE = re.compile(r"\S+:\d+: \w*Warning: |\w*Warning: ")
MEANS = {"NOTICE": "info", "WARN": "warning", "CRITICAL": "error", "FATAL": "error"}
LOOKED_AT = 240
GRAVE = {
    "warning": re.compile(rb"WARN|Warning|ERROR|CRITICAL|FATAL|Traceback|Error|Exception"),
    "error": re.compile(rb"ERROR|CRITICAL|FATAL|Traceback|Error|Exception"),
}
"""What a block of lines must hold for one of them to begin such a level."""


def shown(line: bytes) -> str:
    """A line as a terminal would leave it: without colours; of one that was drawn over, the last drawing."""
    text = line.decode(errors="replace")
    if "\x1b" in text:
        text = ANSI.sub("", text)
    return text.rstrip("\r").rpartition("\r")[2] if "\r" in text else text


def shown_cut(line: bytes) -> tuple[str, int]:
    """The same of at most LINE_BYTES, and how many bytes are left out."""
    if len(line) <= LINE_BYTES:
        return shown(line), 0
    last = line.rstrip(b"\r")
    last = last[last.rfind(b"\r") + 1 :]
    return shown(last[:LINE_BYTES]), max(0, len(last) - LINE_BYTES)


def own_level(text: str) -> str:
    """The level that a line names itself; "" where that is said by the lines before it."""
    if text[:1] in (" ", "\t"):
        return ""
    if named := WORD.match(text[:LOOKED_AT]):
        return MEANS.get(named[1], named[1].lower())
    if FAULT.match(text):
        return "error"
    return "warning" if ADVICE.match(text[:LOOKED_AT]) else ""


class LevelReader:
    """Tells each line's level, in their order: a traceback belongs to its error, what is indented to what it follows.

    A line that names no level is told as `info`.
    """

    def __init__(self) -> None:
        self.level = "info"
        self._in_traceback = False

    def read(self, text: str) -> str:
        """The level of the next line."""
        if not text or text[0] in " \t":
            return self.level
        if level := own_level(text):
            self.level, self._in_traceback = level, text.startswith("Traceback")
        elif self._in_traceback:
            self._in_traceback = False  # the exception's own line, whatever it is called
        else:
            self.level = "info"
        return self.level


def is_at_least(level: str, wanted: str) -> bool:
    """Whether a level is as grave as the one wanted ("": any)."""
    return not wanted or LEVELS.index(level) >= LEVELS.index(wanted)
