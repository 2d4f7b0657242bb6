"""A model without HTTP: many requests at full batch throughput, answered in the order in which they were given.

Runs in the inference process, for the verbs that work through rows (`evaluate`, `generate_data`). The engine is the
one that serves; what differs is that its queue is never empty.
"""

import queue
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch

from inference.engine.base import (
    Delivery,
    Engine,
    EngineClosedError,
    EngineError,
    FinishReason,
    GenerationRequest,
    OutOfMemoryError,
    QueueFullError,
    SamplingParameters,
    Usage,
)
from inference.engine.chat import ChatPrompts, Message
from inference.engine.loading import LoadedModel
from inference.options import ServeOptions
from inference.startup import model_of, open_profile, start_engine
from monitoring.events import EventWriter, JobSpec
from training.profiles.base import Profile
from training.profiles.chatml import CHATML_TEMPLATE

SECTION = "serving"
"""The part of a spec's `config` that holds the engine's settings (`ServeOptions`)."""

BATCH_ON_GPU, BATCH_ON_CPU = 64, 16
"""Rows that decode at once where the spec doesn't say: nobody waits for a first token here."""

AHEAD = 2
"""So many batches are in the engine at once: whoever finishes finds the next one waiting."""

FULL_SECONDS = 0.05
"""So long it waits where the engine takes nothing though nothing of ours runs in it."""

GREEDY = SamplingParameters(temperature=0.0)


@dataclass(frozen=True)
class OfflineModel:
    """A loaded model with its engine; `prompts` renders conversations as the server would, by `chat_template`, and
    `in_flight` requests keep the engine full."""

    loaded: LoadedModel
    engine: Engine
    prompts: ChatPrompts
    profile: Profile
    chat_template: str
    in_flight: int

    def request(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        sampling: SamplingParameters = GREEDY,
        n: int = 1,
        stop: Sequence[str] = (),
        apply_profile: bool = True,
    ) -> GenerationRequest:
        """A chat as a request: with `apply_profile` the profile's system prompt and logits processors are at work.

        Raises InvalidRequestError where the chat template refuses the conversation.
        """
        return GenerationRequest(
            self.prompts.token_ids(messages, {}, apply_profile=apply_profile),
            max_tokens=max_tokens,
            sampling=sampling,
            stop=(*stop, *self.prompts.stop_strings),
            n=n,
            apply_processors=apply_profile,
        )


@dataclass(frozen=True)
class OfflineAnswer:
    """What became of one request: its `n` texts and why each ended, or the error."""

    texts: tuple[str, ...] = ()
    finish_reasons: tuple[FinishReason | None, ...] = ()
    usage: Usage | None = None
    error: EngineError | None = None

    @property
    def text(self) -> str:
        """The first text, "" where there is none."""
        return self.texts[0] if self.texts else ""


@contextmanager
def opened(spec: JobSpec, events: EventWriter) -> Iterator[OfflineModel]:
    """Loads `spec.inputs.model` (on `spec.inputs.base`) as the server does, and frees it at the end.

    Settings are those of a serve job, under `config["serving"]`. Raises JobFaultError.
    """
    given: dict[str, Any] = spec.config.get(SECTION, {})
    batch = BATCH_ON_GPU if torch.cuda.is_available() else BATCH_ON_CPU
    options = ServeOptions.from_config({"max_batch": batch, "max_queue": AHEAD * batch, **given}, model_of(spec).id)
    profile = open_profile(options, events)
    loaded, engine = start_engine(spec, options, profile, events)
    template = profile.chat_template or loaded.encoder.chat_template or CHATML_TEMPLATE
    prompts = ChatPrompts(loaded.encoder, lambda: profile.system_prompt(date.today()), template)
    try:
        in_flight = min(AHEAD * options.max_batch, options.max_queue)
        yield OfflineModel(loaded, engine, prompts, profile, template, in_flight)
    finally:
        engine.close()


Asked = GenerationRequest | EngineError | None
"""A request, an error in its place, or nothing yet."""


def answered(engine: Engine, requests: Iterable[Asked], *, in_flight: int) -> Generator[OfflineAnswer, None, None]:
    """One answer for each request, in order, while up to `in_flight` of them are in the engine.

    `requests` is read as there is room, so it may be a generator; an error that stands in a request's place is its
    answer. A None says that what comes next depends on answers which are still to be given: the iterator is asked
    again until they are; where none is still to be given, it is the end. A request that fails doesn't end the others.
    Where memory runs out it is tried again with fewer beside it, and after as many answers as then run there may be a
    quarter more.
    Raises EngineClosedError. A caller that stops iterating cancels what runs.
    """
    work = _Work(engine, iter(requests), in_flight)
    try:
        yield from work.answers()
    finally:
        work.cancel()


class _Work:
    """The requests that are in the engine, and the answers that wait for their turn."""

    def __init__(self, engine: Engine, source: Iterator[Asked], in_flight: int) -> None:
        self._engine = engine
        self._source = source
        self._width = self._most = max(1, in_flight)
        self._answered_in_a_row = 0
        self._deliveries: queue.SimpleQueue[tuple[int, Delivery]] = queue.SimpleQueue()
        self._running: dict[int, _Running] = {}
        self._finished: dict[int, OfflineAnswer] = {}
        self._again: deque[tuple[int, GenerationRequest]] = deque()
        self._taken = 0
        self._is_exhausted = False

    def answers(self) -> Iterator[OfflineAnswer]:
        following = 0
        while True:
            is_full = self._fill()
            if following in self._finished:
                yield self._finished.pop(following)
                following += 1
            elif self._running:
                self._take(*self._deliveries.get())
            elif is_full:
                time.sleep(FULL_SECONDS)
            elif not self._again and following == self._taken:
                return

    def cancel(self) -> None:
        for running in self._running.values():
            self._engine.cancel(running.number)

    def _fill(self) -> bool:
        """Gives the engine what there is room for; returns whether it takes nothing more for now."""
        while len(self._running) < self._width and (following := self._next()) is not None:
            position, request = following
            if isinstance(request, EngineError):
                self._finished[position] = OfflineAnswer(error=request)
                return False  # it may be next in line: the caller is not kept waiting for it
            try:
                number = self._engine.submit(request, self._deliver_to(position))
            except QueueFullError:
                self._again.appendleft((position, request))
                self._narrow(len(self._running))
                return True
            except EngineClosedError:
                raise
            except EngineError as error:
                self._finished[position] = OfflineAnswer(error=error)
                return False
            else:
                self._running[position] = _Running(number, request)
        return False

    def _next(self) -> tuple[int, GenerationRequest | EngineError] | None:
        if self._again:
            return self._again.popleft()
        if self._is_exhausted:
            return None
        try:
            request = next(self._source)
        except StopIteration:
            self._is_exhausted = True
            return None
        if request is None:
            return None
        self._taken += 1
        return self._taken - 1, request

    def _take(self, position: int, delivery: Delivery) -> None:
        running = self._running[position]
        if isinstance(delivery, EngineError):
            del self._running[position]
            if isinstance(delivery, OutOfMemoryError) and self._running:
                self._narrow(len(self._running) // 2)
                self._again.append((position, running.request))
            else:
                self._finished[position] = OfflineAnswer(error=delivery)
            return
        running.texts[delivery.index] += delivery.text
        if delivery.finish_reason is not None:
            running.reasons[delivery.index] = delivery.finish_reason
        if delivery.usage is not None:
            del self._running[position]
            if "cancelled" in running.reasons:
                raise EngineClosedError("The engine was closed before all rows were answered.")
            self._finished[position] = OfflineAnswer(tuple(running.texts), tuple(running.reasons), delivery.usage)
            self._widen()

    def _narrow(self, width: int) -> None:
        self._width = max(1, width)
        self._answered_in_a_row = 0

    def _widen(self) -> None:
        """One long request may have been what didn't fit: the others need not wait behind it until the end."""
        self._answered_in_a_row += 1
        if self._width < self._most and self._answered_in_a_row >= self._width:
            self._width = min(self._most, self._width + max(1, self._width // 4))
            self._answered_in_a_row = 0

    def _deliver_to(self, position: int) -> "_Deliver":
        return _Deliver(self._deliveries, position)


@dataclass(frozen=True)
class _Deliver:
    """Called in the engine's thread."""

    deliveries: "queue.SimpleQueue[tuple[int, Delivery]]"
    position: int

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.put((self.position, delivery))


class _Running:
    """A request in the engine and what it has said so far."""

    def __init__(self, number: int, request: GenerationRequest) -> None:
        self.number = number
        self.request = request
        self.texts = [""] * request.n
        self.reasons: list[FinishReason | None] = [None] * request.n
