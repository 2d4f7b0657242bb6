"""What an engine is to the rest of the house: requests go in, chunks of text come out, as they are ready.

Runs in the inference process; knows neither torch nor HTTP, so that the server, the evaluation and the data generation
jobs speak to every engine alike.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from inference.engine.constraints import Constraint

BASE_MODEL = ""
"""In place of an adapter's name: the base alone."""

FinishReason = Literal["stop", "length", "cancelled"]

Result = TypeVar("Result")


class EngineError(Exception):
    """An engine can't do what was asked. `code` is stable, the message is for people, `parameter` names the option."""

    code = "engine_error"

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter


class InvalidRequestError(EngineError):
    """The request asks for something that this engine or model can't do."""

    code = "invalid_value"


class ContextLengthError(InvalidRequestError):
    """The prompt leaves no room for a single token."""

    code = "context_length_exceeded"


class QueueFullError(EngineError):
    """As many requests wait as the engine lets wait."""

    code = "queue_full"


class EngineClosedError(EngineError):
    """The engine takes no requests any more."""

    code = "engine_draining"


class GenerationFailedError(EngineError):
    """A request was admitted and could not be finished."""

    code = "generation_failed"


class OutOfMemoryError(GenerationFailedError):
    """The device had no memory left for this request."""

    code = "out_of_memory"


@dataclass(frozen=True)
class SamplingParameters:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and what to make of it.

    `max_tokens` None means: until the context is full. `top_logprobs` None means no log-probabilities, 0 those of the
    chosen tokens alone. `apply_processors` False leaves out the logits processors of the model's profile. What a
    `constraint` and the processors can't agree on, the constraint decides. `adapter` names the one under which to
    answer.
    """

    prompt_token_ids: Sequence[int]
    max_tokens: int | None = None
    sampling: SamplingParameters = SamplingParameters()
    stop: Sequence[str] = ()
    n: int = 1
    top_logprobs: int | None = None
    apply_processors: bool = True
    constraint: Constraint | None = None
    adapter: str = BASE_MODEL


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural-log probability under the model (before temperature and penalties), and its bytes."""

    token_id: int
    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True)
class ChosenLogprob:
    """The token that was chosen beside the likeliest ones; `text_offset` counts characters of this choice's text."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]
    text_offset: int


@dataclass(frozen=True)
class Usage:
    """What a finished request took. Completion tokens count every token generated for all choices, end tokens too;
    `cached_tokens` are those of the prompt that an earlier request had paid for."""

    prompt_tokens: int
    completion_tokens: int
    queue_seconds: float
    time_to_first_token_seconds: float
    tokens_per_second: float | None
    cached_tokens: int = 0


@dataclass(frozen=True)
class GenerationChunk:
    """New text of one choice. The last chunk of a choice has a `finish_reason`, the last of the request a `usage`."""

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[ChosenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


Delivery = GenerationChunk | EngineError
"""An error is the last thing that a request delivers."""

Deliver = Callable[[Delivery], None]
"""Called from the engine's thread: it must be quick and must not raise."""


@dataclass(frozen=True)
class EngineStats:
    """Figures of this process since its start; `None` where nothing has been measured yet.

    `prefix_hits` counts requests whose prompt began with what was known, `cached_prompt_tokens` the tokens so spared,
    `prefix_cache_bytes` what is held for that at this moment.
    """

    running: int
    waiting: int
    requests: int
    prompt_tokens: int
    tokens: int
    tokens_per_second: float
    time_to_first_token_ms_last: float | None
    time_to_first_token_ms_mean: float | None
    prefix_hits: int = 0
    cached_prompt_tokens: int = 0
    prefix_cache_bytes: int = 0


class Engine(Protocol):
    """A loaded model that answers requests from any thread."""

    @property
    def max_model_length(self) -> int:
        """The most tokens of prompt and completion together."""

    def prepare(self, constraint: Constraint) -> None:
        """Makes a constraint ready, which may take a while; `submit` does it where that has not been done.

        Raises InvalidRequestError, which names the option at fault.
        """

    def submit(self, request: GenerationRequest, deliver: Deliver) -> int:
        """Queues a request and returns its number.

        Raises InvalidRequestError, ContextLengthError, QueueFullError or EngineClosedError, and then delivers nothing.
        """

    def cancel(self, number: int) -> None:
        """Ends a request at the next step; its choices finish as "cancelled". Unknown or finished: nothing happens."""

    def compute(self, work: Callable[[], Result]) -> Result:
        """Does work with the model, as measuring a loss, in the thread that owns it, and waits for it: rows that decode
        stand still meanwhile. Returns and raises what the work does. Raises EngineClosedError where it is not begun."""

    def stats(self) -> EngineStats:
        """Figures at this moment."""

    def close(self) -> None:
        """Cancels what runs and waits, ends the thread and frees the model. Takes no requests from then on."""


def stream(engine: Engine, request: GenerationRequest) -> Iterator[GenerationChunk]:
    """Yields a request's chunks in the calling thread. Raises what `submit` raises and the error it ends with.

    A caller that stops iterating cancels the request.
    """
    deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    number = engine.submit(request, deliveries.put)
    try:
        while True:
            delivery = deliveries.get()
            if isinstance(delivery, EngineError):
                raise delivery
            yield delivery
            if delivery.usage is not None:
                return
    finally:
        engine.cancel(number)
