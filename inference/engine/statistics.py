"""What an engine has done, counted as it happens.

Runs in the inference process: the engine's thread writes, any thread reads.
"""

import threading
import time
from collections import deque

from inference.engine.base import EngineStats

RATE_WINDOW_SECONDS = 10.0


class Statistics:
    """Counters since the start, and the token rate over the last ten seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started_at = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque()
        self.requests = 0
        self.prompt_tokens = 0
        self.tokens = 0
        self.prefix_hits = 0
        self.cached_prompt_tokens = 0
        self.first_token_last_seconds: float | None = None
        self._first_token_sum_seconds = 0.0
        self._first_tokens = 0

    def count_tokens(self, count: int) -> None:
        """Adds tokens generated just now."""
        now = time.monotonic()
        with self._lock:
            self.tokens += count
            self._recent.append((now, count))
            self._forget(now)

    def count_first_token(self, seconds: float, prompt_tokens: int, cached_tokens: int) -> None:
        """Adds a request whose first token has come, `seconds` after it was submitted."""
        with self._lock:
            self.first_token_last_seconds = seconds
            self._first_token_sum_seconds += seconds
            self._first_tokens += 1
            self.prompt_tokens += prompt_tokens
            self.prefix_hits += bool(cached_tokens)
            self.cached_prompt_tokens += cached_tokens

    def count_request(self) -> None:
        """Adds a request that was accepted."""
        with self._lock:
            self.requests += 1

    def tokens_per_second(self) -> float:
        """Tokens of the last ten seconds (or of the time since the start, if shorter) by second."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            seconds = min(RATE_WINDOW_SECONDS, max(now - self._started_at, 1e-3))
            return sum(count for _, count in self._recent) / seconds

    def first_token_mean_seconds(self) -> float | None:
        """The mean time to the first token, None before the first."""
        with self._lock:
            return self._first_token_sum_seconds / self._first_tokens if self._first_tokens else None

    def told(self, *, running: int, waiting: int, prefix_cache_bytes: int) -> EngineStats:
        """All figures at this moment."""
        mean, last = self.first_token_mean_seconds(), self.first_token_last_seconds
        return EngineStats(
            running=running,
            waiting=waiting,
            requests=self.requests,
            prompt_tokens=self.prompt_tokens,
            tokens=self.tokens,
            tokens_per_second=self.tokens_per_second(),
            time_to_first_token_ms_last=None if last is None else last * 1000,
            time_to_first_token_ms_mean=None if mean is None else mean * 1000,
            prefix_hits=self.prefix_hits,
            cached_prompt_tokens=self.cached_prompt_tokens,
            prefix_cache_bytes=prefix_cache_bytes,
        )

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - RATE_WINDOW_SECONDS:
            self._recent.popleft()
