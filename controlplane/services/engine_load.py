"""A steady load on one engine, to measure it under. Runs in threads of the web process.

Every thread asks for one text after another. A text that reaches over an edge of the measured time counts there with
the part of its tokens that its time has: tokens come at an even pace once the prompt is read.
"""

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

ANSWER_TIMEOUT_SECONDS = 120.0
JOIN_SECONDS = 150.0


@dataclass(frozen=True)
class Answered:
    """One text: when it was asked for and there (time.monotonic), and its tokens."""

    begin: float
    end: float
    tokens: int

    def tokens_within(self, begin: float, end: float) -> float:
        """The part of its tokens that fell between two times."""
        overlap = min(end, self.end) - max(begin, self.begin)
        return self.tokens * max(0.0, overlap) / (self.end - self.begin) if self.end > self.begin else 0.0


@dataclass(frozen=True)
class Target:
    """Where an engine answers, and what it is asked."""

    base_url: str
    headers: dict[str, str]
    model_name: str
    prompt: str
    max_tokens: int


@dataclass
class EngineLoad:
    """`with EngineLoad(target, 4) as load:` asks from four threads until the block ends; then waits for the last text.

    `fault` is the sentence of the first answer that was none: the load has ended with it.
    """

    target: Target
    concurrency: int
    answers: list[Answered] = field(default_factory=list)
    fault: str | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)

    def __enter__(self) -> Self:
        for number in range(self.concurrency):
            thread = threading.Thread(target=self._ask_on, name=f"load {number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def tokens_between(self, begin: float, end: float) -> float:
        """Tokens that came between two times (time.monotonic). Whole once the block has ended."""
        return sum(answered.tokens_within(begin, end) for answered in list(self.answers))

    def _ask_on(self) -> None:
        with httpx.Client(timeout=ANSWER_TIMEOUT_SECONDS, trust_env=False) as client:
            while not self._stopping.is_set():
                begin = time.monotonic()
                try:
                    tokens = self._ask(client, next(self._numbers))
                except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
                    self.fault = self.fault or f"The engine broke off: {error or type(error).__name__}."
                    self._stopping.set()
                    return
                self.answers.append(Answered(begin, time.monotonic(), tokens))

    def _ask(self, client: httpx.Client, number: int) -> int:
        """Asks for one text, each time another; returns its tokens."""
        body = {
            "model": self.target.model_name, "max_tokens": self.target.max_tokens, "temperature": 0,
            "messages": [{"role": "user", "content": f"{self.target.prompt} ({number})"}],
        }  # fmt: skip
        url = f"{self.target.base_url}/v1/chat/completions"
        answer = client.post(url, json=body, headers=self.target.headers)
        if answer.is_error:
            raise ValueError(f"it answered {answer.status_code}, {answer.text[:200]}")
        tokens = int(answer.json()["usage"]["completion_tokens"])
        if tokens < 1:
            raise ValueError("it answered with nothing")
        return tokens
