"""Which texts may be names: one line that people can read, in any script. Runs in the web process.

Beside what Python calls printable, a name may hold what people type without knowing of it: the joiners inside a family
of emoji or a Persian word, the tags of a regional flag, the spaces of other scripts, and emoji younger than Python's
tables. What would turn or hide the text around it (overrides and isolates of direction, invisible signs) may not.
"""

import re
import unicodedata

JOINERS = "\u200c\u200d"
"""ZERO WIDTH NON-JOINER and JOINER: they join or part what stands on both sides of them, so something must stand there.
"""

FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{2,6}\U000e007f")
"""A regional flag, as Scotland's: a black flag, the region in tags, the tag that ends it."""

PICTOGRAPHS = range(0x1F000, 0x1FB00)
"""The blocks that get new emoji each year: unassigned there is most likely younger than this Python."""


def is_legible(text: str) -> bool:
    """Whether a text is one line of visible letters; so is an empty one."""
    if any(joiner in text for joiner in JOINERS):
        text = _without_joiners(text)
    return text.isprintable() or all(map(_is_visible, FLAG.sub("", text)))


def made_legible(text: str) -> str:
    """The text with a space in place of each sign that no name may hold."""
    parts = re.split(f"({FLAG.pattern})", text)
    kept = "".join(part if FLAG.fullmatch(part) else "".join(map(_shown, part)) for part in parts)
    bare = _without_joiners(kept)
    return kept if not any(joiner in bare for joiner in JOINERS) else bare.translate(dict.fromkeys(map(ord, JOINERS)))


def _without_joiners(text: str) -> str:
    """Takes away the joiners that stand between two visible letters."""
    return re.sub(f"(?<=[^\\s{JOINERS}])[{JOINERS}](?=[^\\s{JOINERS}])", "", text)


def _shown(letter: str) -> str:
    return letter if letter in JOINERS or _is_visible(letter) else " "


def _is_visible(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs" or ord(letter) in PICTOGRAPHS
