"""Stop strings: text up to the first of them, and nothing that may turn out to be the beginning of one.

Runs in the inference process.
"""

from collections.abc import Sequence


class StopMatcher:
    """Watches the text of one choice. A stop string counts across tokens too, and is not given out."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Takes new text; returns what can be given out. Sets `is_stopped` when a stop string is complete."""
        if not self._stops:
            return text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.is_stopped = True
            given, self._held = self._held[: min(places)], ""
            return given
        kept = unfinished(self._held, self._stops)
        given, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return given

    def finish(self) -> str:
        """What was held back and is no stop string after all."""
        given, self._held = self._held, ""
        return given


def unfinished(text: str, endings: Sequence[str]) -> int:
    """The length of the longest end of a text that begins one of `endings` and may become it."""
    longest = min(len(text), max(len(ending) for ending in endings) - 1)
    for length in range(longest, 0, -1):
        if any(ending.startswith(text[-length:]) for ending in endings if len(ending) > length):
            return length
    return 0
