"""What a key may still ask for in this minute. Runs in the web process.

Exact sliding windows of a minute in the memory of the web process: a restart forgets them, so a key may have its
minute twice then. What it takes at another web process is heard of within a second (`services.neighbours`), so it may
have that second's share too much. A request's tokens are known when its answer ends, and count from that moment on for
a minute. Until then it counts with what it may take at most, however long it takes: its prompt guessed, and its
`max_tokens`, or UNSAID_TOKENS where it names none; an answer that is longer than that is counted whole, but afterwards.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from controlplane.errors import ForbiddenError, RateLimitedError
from controlplane.models.access import Actor
from controlplane.services.answer_meter import estimated_prompt_tokens

WINDOW_SECONDS = 60.0
UNSAID_TOKENS = 1024
UNSAID_COMPLETION_TOKENS = 16
"""What an answer is taken for that isn't limited: a chat's, and a completion's, which OpenAI ends there."""

OPEN_RETRY_SECONDS = 5.0
"""When to ask again where only answers that are still being given stand in the way."""

LONGEST_OPEN_SECONDS = 3600.0
"""No answer takes longer: what is still open then was forgotten."""


@dataclass
class Entry:
    """Something that counts for a minute, or until it is settled."""

    time: float
    amount: int


def age(entry: Entry) -> float:
    """By which entries are put in order, the oldest first."""
    return entry.time


class Window:
    """What was taken within the last minute, and what is being taken. Not thread-safe by itself."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._open: list[Entry] = []
        self._elsewhere: Sequence[Entry] = ()

    def taken(self, now: float) -> int:
        """The sum of what counts still."""
        while self._entries and self._entries[0].time <= now - WINDOW_SECONDS:
            self._entries.popleft()
        self._open = [entry for entry in self._open if entry.time > now - LONGEST_OPEN_SECONDS]
        self._elsewhere = [entry for entry in self._elsewhere if entry.time > now - WINDOW_SECONDS]
        return sum(entry.amount for entry in (*self._entries, *self._open, *self._elsewhere))

    def wait_seconds(self, amount: int, limit: int, now: float) -> float:
        """How long until `amount` fits below `limit`; 0 where it does now. More than the limit waits for an empty one.

        `taken` of the same moment must have been asked before.
        """
        surplus = self.taken(now) + min(amount, limit) - limit
        wait = 0.0
        ended = sorted([*self._entries, *self._elsewhere], key=age) if self._elsewhere else self._entries
        for entry in ended:
            if surplus <= 0:
                break
            surplus -= entry.amount
            wait = entry.time + WINDOW_SECONDS - now
        return wait if surplus <= 0 else max(wait, OPEN_RETRY_SECONDS)

    def add(self, amount: int, now: float) -> None:
        """Counts it, from now on for a minute."""
        self._entries.append(Entry(now, amount))

    def reserve(self, amount: int, now: float) -> Entry:
        """Counts it until it is settled."""
        entry = Entry(now, amount)
        self._open.append(entry)
        return entry

    def settle(self, entry: Entry, amount: int, now: float) -> None:
        """What was reserved has really taken so much, and counts from now on for a minute."""
        self._open = [other for other in self._open if other is not entry]
        self.add(amount, now)

    def empty_seconds(self, now: float) -> float:
        """How long until nothing counts any more, if all that is open ends now."""
        ended = [*list(self._entries)[-1:], *self._elsewhere]
        newest = now if self._open else max((entry.time for entry in ended), default=-math.inf)
        return max(0.0, newest + WINDOW_SECONDS - now)

    def told(self, now: float) -> list[list[float]]:
        """What counts here: seconds ago, and how much. What is still open counts as if it ended now."""
        self.taken(now)
        ended: dict[float, float] = {}
        for entry in self._entries:
            seconds = float(int(now - entry.time))
            ended[seconds] = ended.get(seconds, 0) + entry.amount
        being_taken = sum(entry.amount for entry in self._open)
        return [[0.0, float(being_taken)]] * bool(being_taken) + [
            [seconds, amount] for seconds, amount in ended.items()
        ]

    def hear(self, told: Iterable[list[float]], now: float) -> None:
        """What counts elsewhere."""
        self._elsewhere = [Entry(now - seconds, int(amount)) for seconds, amount in told]


@dataclass
class KeyWindows:
    """The two windows of one key."""

    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)


@dataclass
class Admission:
    """A request that was let in. `headers` tell the client where it stands."""

    headers: dict[str, str] = field(default_factory=dict)
    _settle: Callable[[int, float], None] | None = None

    def settle(self, tokens: int, now: float | None = None) -> None:
        """What it has really taken. The second word about it changes nothing."""
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(tokens, time.monotonic() if now is None else now)


class Gatekeeper:
    """Lets requests in by the limits of their keys."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[int, KeyWindows] = {}

    def admit(self, actor: Actor | None, body: dict[str, Any], now: float | None = None) -> Admission:
        """Counts a request in. Raises RateLimitedError, with nothing counted, where its key has had its share."""
        if actor is None or actor.key_id is None:
            return Admission()
        limits = actor.limits
        if not limits.requests_per_minute and not limits.tokens_per_minute:
            return Admission()
        now = time.monotonic() if now is None else now
        with self._lock:
            windows = self._windows.setdefault(actor.key_id, KeyWindows())
            wanted = most_tokens(body) if limits.tokens_per_minute else 0
            asked = (
                ("requests", windows.requests, 1, limits.requests_per_minute),
                ("tokens", windows.tokens, wanted, limits.tokens_per_minute),
            )
            for what, window, amount, limit in asked:
                wait = window.wait_seconds(amount, limit, now) if limit else 0.0
                if wait > 0:
                    raise _refusal(actor, what, limit, wait, _standing(asked, now))
            windows.requests.add(1, now)
            if not limits.tokens_per_minute:
                return Admission(_standing(asked, now))
            entry = windows.tokens.reserve(min(wanted, limits.tokens_per_minute), now)
            return Admission(_standing(asked, now), partial(self._settle, windows.tokens, entry))

    def told(self) -> dict[str, list[list[list[float]]]]:
        """What other web processes must know: by key, what counts of its requests and of its tokens."""
        now = time.monotonic()
        with self._lock:
            found = {str(key): [both.requests.told(now), both.tokens.told(now)] for key, both in self._windows.items()}
        return {key: both for key, both in found.items() if any(both)}

    def hear(self, told: Iterable[Mapping[str, list[list[list[float]]]]]) -> None:
        """What the other web processes have told, each its own."""
        now, told = time.monotonic(), list(told)
        with self._lock:
            for key in {*self._windows, *(int(key) for each in told for key in each)}:
                windows = self._windows.setdefault(key, KeyWindows())
                both = [each[str(key)] for each in told if str(key) in each]
                windows.requests.hear([row for requests, _ in both for row in requests], now)
                windows.tokens.hear([row for _, tokens in both for row in tokens], now)

    def _settle(self, window: Window, entry: Entry, tokens: int, now: float) -> None:
        with self._lock:
            window.settle(entry, tokens, now)


Asked = tuple[tuple[str, Window, int, int], ...]
gatekeeper = Gatekeeper()


def most_tokens(body: dict[str, Any]) -> int:
    """What a request may take at most, as far as it says so."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if not isinstance(limit, int) or limit < 1:
        limit = UNSAID_COMPLETION_TOKENS if "prompt" in body else UNSAID_TOKENS
    texts = body.get("n")
    return estimated_prompt_tokens(body) + limit * (max(1, texts) if isinstance(texts, int) else 1)


def check_model(actor: Actor | None, model_name: str) -> None:
    """Raises ForbiddenError where the actor's key may not use the model."""
    allowed = actor.limits.models if actor is not None else ()
    if allowed and model_name not in allowed:
        raise ForbiddenError(f"This key may not use the model {model_name}: it may use {', '.join(allowed)}.")


def may_use(actor: Actor, model_name: str) -> bool:
    """Whether the actor's key may use the model."""
    return not actor.limits.models or model_name in actor.limits.models


def _standing(asked: Asked, now: float) -> dict[str, str]:
    """OpenAI's headers: the limit, what is left of it, and when all of it is there again."""
    headers = {}
    for what, window, _amount, limit in asked:
        if limit:
            headers[f"x-ratelimit-limit-{what}"] = str(limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - window.taken(now)))
            headers[f"x-ratelimit-reset-{what}"] = f"{max(0.0, window.empty_seconds(now)):.3f}s"
    return headers


def _refusal(actor: Actor, what: str, limit: int, wait: float, headers: dict[str, str]) -> RateLimitedError:
    seconds = max(1, math.ceil(wait))
    message = f"The {actor.name} has had its {limit} {what} a minute: ask again in {seconds} s."
    return RateLimitedError(message, seconds, what, headers)
