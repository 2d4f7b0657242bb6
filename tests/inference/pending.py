"""Requests under way in an engine, and what they ask."""

import queue
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from inference.engine.base import (
    Delivery,
    Engine,
    EngineError,
    GenerationChunk,
    GenerationRequest,
    SamplingParameters,
    Usage,
)
from inference.engine.batch import PREFILL_TOKENS
from inference.engine.loading import LoadedModel
from tests.inference.models import CHATS

GREEDY = SamplingParameters(temperature=0)
Generate = Callable[[list[int], int], list[int]]


@dataclass
class Pending:
    """A request under way, with everything that it has delivered."""

    engine: Engine
    request: GenerationRequest
    inbox: "queue.SimpleQueue[Delivery]" = field(default_factory=queue.SimpleQueue)
    chunks: list[GenerationChunk] = field(default_factory=list)
    error: EngineError | None = None

    def __post_init__(self) -> None:
        self.number = self.engine.submit(self.request, self.inbox.put)

    @property
    def is_over(self) -> bool:
        return self.error is not None or bool(self.chunks and self.chunks[-1].usage)

    def step(self) -> None:
        """Waits for one delivery."""
        delivery = self.inbox.get(timeout=60)
        if isinstance(delivery, EngineError):
            self.error = delivery
        else:
            self.chunks.append(delivery)

    def until(self, condition: Callable[["Pending"], bool]) -> "Pending":
        while not self.is_over and not condition(self):
            self.step()
        return self

    def finish(self) -> "Pending":
        return self.until(lambda _: False)

    def tokens(self, index: int = 0) -> list[int]:
        return [token for chunk in self.chunks if chunk.index == index for token in chunk.token_ids]

    def text(self, index: int = 0) -> str:
        return "".join(chunk.text for chunk in self.chunks if chunk.index == index)

    def reason(self, index: int = 0) -> str | None:
        return next((c.finish_reason for c in self.chunks if c.index == index and c.finish_reason), None)

    @property
    def usage(self) -> Usage:
        usage = self.chunks[-1].usage
        assert usage is not None
        return usage


def chat(loaded: LoadedModel, question: str) -> list[int]:
    encoder = loaded.encoder
    turns = [{"role": "user", "content": question}]
    text = encoder.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(encoder.encode(text, add_special_tokens=False))


def prompts(loaded: LoadedModel) -> list[list[int]]:
    """Short and long ones, one of them longer than what is worked on in one piece."""
    questions = [chat(loaded, question) for question in CHATS]
    long = (questions[0] * 100)[: PREFILL_TOKENS + 200]
    return [questions[0], long, questions[1], questions[0] * 5, questions[2], questions[3] * 3, questions[3]]


def without_end(loaded: LoadedModel) -> SamplingParameters:
    """Greedy sampling that never ends by itself."""
    return replace(GREEDY, logit_bias=dict.fromkeys(loaded.end_token_ids, -1000000000.0))
