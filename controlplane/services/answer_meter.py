"""What an answer took, read from the answer itself as it passes through. Pure; used in the web process.

Engines are asked to end every stream with its usage. A client that didn't ask for it doesn't see it.
"""

import json
import re
import time
from dataclasses import dataclass
from typing import Any

EVENT_END = b"\n\n"
USAGE = re.compile(rb'"usage": ?\{')
NO_USAGE = b',"usage":null'
TEXT = re.compile(rb'"(?:content|text|arguments|reasoning_content)": ?"(?!")')
"""A piece of text that isn't empty: a stream's first event says only who speaks."""

CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Measured:
    """What an answer took; None where it isn't known. `is_whole` is false where the client left before the end."""

    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    is_whole: bool = True

    @property
    def tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


NOTHING = Measured(0, 0)


def asks_for_usage(body: dict[str, Any]) -> bool:
    """Whether the client wants to see the usage of a stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def with_usage(body: dict[str, Any]) -> dict[str, Any]:
    """The body as the engine gets it. Options of a wrong type are left for the engine to refuse."""
    options = body.get("stream_options")
    if not body.get("stream") or not isinstance(options, dict | None):
        return body
    return {**body, "stream_options": {**(options or {}), "include_usage": True}}


def estimated_prompt_tokens(body: dict[str, Any]) -> int:
    """A guess at a prompt's tokens, before or without the engine's count: four characters each."""
    told = body.get("messages") or body.get("prompt") or ""
    return len(json.dumps(told, ensure_ascii=False)) // CHARACTERS_A_TOKEN


def of_whole(content: bytes) -> Measured | None:
    """What an answer says that came in one piece; None where it says nothing of it."""
    try:
        answer = json.loads(content)
        usage, timing = answer["usage"], answer.get("pilothouse") or {}
        first = timing.get("time_to_first_token_ms")
        return Measured(
            int(usage["prompt_tokens"]), int(usage["completion_tokens"]),
            first / 1000 if first is not None else None, timing.get("tokens_per_second"),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class StreamMeter:
    """Watches one stream. `began`: when its request came (time.monotonic)."""

    def __init__(self, *, shows_usage: bool, prompt_tokens: int, began: float) -> None:
        self._shows_usage = shows_usage
        self._guessed_prompt_tokens = prompt_tokens
        self._began = began
        self._torn = b""
        self._pieces = 0
        self._first_at: float | None = None
        self._last_at = began
        self._usage: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        """What of it goes on to the client: whole events, without the usage unless it was asked for."""
        events, end, self._torn = (self._torn + data).rpartition(EVENT_END)
        if not end:
            return b""
        events += end
        if USAGE.search(events):
            events = self._without_usage(events)
        elif not self._shows_usage:
            events = events.replace(NO_USAGE, b"")
        if self._first_at is None and TEXT.search(events):
            self._first_at = time.monotonic()
        self._pieces += events.count(EVENT_END)
        self._last_at = time.monotonic()
        return events

    def rest(self) -> bytes:
        """What came without its end."""
        torn, self._torn = self._torn, b""
        return torn

    def _without_usage(self, events: bytes) -> bytes:
        kept = []
        for event in events.split(EVENT_END)[:-1]:
            if USAGE.search(event) and self._note(event) and not self._shows_usage:
                continue
            kept.append((event if self._shows_usage else event.replace(NO_USAGE, b"")) + EVENT_END)
        return b"".join(kept)

    def _note(self, event: bytes) -> bool:
        """Notes an event's usage. Returns whether it brings nothing else, so that it may be left out."""
        try:
            told = json.loads(event.partition(b"data:")[2])
            self._usage = dict(told["usage"])
        except (ValueError, KeyError, TypeError):
            return False
        return not told.get("choices")

    def measured(self) -> Measured:
        """What the stream took: by the engine's own count, or guessed where it never came to that."""
        usage = self._usage or {}
        completion = int(usage.get("completion_tokens", max(0, self._pieces - 1)))
        prompt = int(usage.get("prompt_tokens", self._guessed_prompt_tokens))
        if self._first_at is None:
            return Measured(prompt, completion, is_whole=bool(usage))
        seconds = self._last_at - self._first_at
        rate = (completion - 1) / seconds if completion > 1 and seconds > 0 else None
        return Measured(prompt, completion, self._first_at - self._began, rate, bool(usage))
