"""The engine on transformers: one thread that owns the model and a rolling batch; any thread may submit and cancel.

Runs in the inference process. A step is: drop what was cancelled, work on the prompt of whoever is next, then decode
one token for every row. A request that fails takes nobody with it.
"""

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from inference.engine.base import (
    ContextLengthError,
    Deliver,
    EngineClosedError,
    EngineError,
    EngineStats,
    GenerationChunk,
    GenerationFailedError,
    GenerationRequest,
    InvalidRequestError,
    OutOfMemoryError,
    QueueFullError,
)
from inference.engine.batch import Prefill, RollingBatch, may_join
from inference.engine.choice import Choice, TextTools, Ticket, not_a_number_error
from inference.engine.loading import LoadedModel
from inference.engine.statistics import Statistics
from inference.engine.text import TokenBytes
from inference.processors import ProcessorFactory, Vocabulary

logger = logging.getLogger(__name__)


class TransformersEngine:
    """Serves one loaded model; `Engine` says what its methods promise.

    `max_batch` rows decode together at most, `max_queue` requests wait at most.
    """

    def __init__(
        self, loaded: LoadedModel, factories: Sequence[ProcessorFactory], *, max_batch: int, max_queue: int
    ) -> None:
        self._loaded = loaded
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._tools = _text_tools(loaded, factories)
        self._wake = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._tickets: dict[int, Ticket] = {}
        self._last_number = 0
        self._is_closed = False
        self._statistics = Statistics()
        self._batch = RollingBatch(loaded.model)
        self._prefill: Prefill | None = None
        self._largest_group = max_batch
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def max_model_length(self) -> int:
        """The most tokens of prompt and completion together."""
        return self._loaded.max_model_length

    # --- Any thread -------------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest, deliver: Deliver) -> int:
        """Queues a request; see `Engine.submit`."""
        tokens_limit = self._checked_tokens_limit(request)
        with self._wake:
            if self._is_closed:
                raise EngineClosedError("The engine is shutting down and takes no requests.")
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(f"{self._max_queue} requests are waiting already; try again shortly.")
            self._last_number += 1
            ticket = Ticket(self._last_number, request, deliver, tokens_limit, unfinished_choices=request.n)
            self._tickets[ticket.number] = ticket
            self._waiting.append(ticket)
            self._statistics.count_request()
            self._wake.notify()
        return ticket.number

    def cancel(self, number: int) -> None:
        """Ends a request at the next step; see `Engine.cancel`."""
        with self._wake:
            if ticket := self._tickets.get(number):
                ticket.is_cancelled = True
                self._wake.notify()

    def stats(self) -> EngineStats:
        """Figures at this moment. `running` counts rows, those whose prompt is being worked on too."""
        with self._wake:
            statistics, waiting = self._statistics, len(self._waiting)
            running = sum(t.unfinished_choices for t in self._tickets.values()) - sum(
                t.unfinished_choices for t in self._waiting
            )
        mean, last = statistics.first_token_mean_seconds(), statistics.first_token_last_seconds
        return EngineStats(
            running=running,
            waiting=waiting,
            requests=statistics.requests,
            prompt_tokens=statistics.prompt_tokens,
            tokens=statistics.tokens,
            tokens_per_second=statistics.tokens_per_second(),
            time_to_first_token_ms_last=None if last is None else last * 1000,
            time_to_first_token_ms_mean=None if mean is None else mean * 1000,
        )

    def forget_statistics(self) -> None:
        """Starts counting anew: the warm-up is nobody's request."""
        self._statistics = Statistics()

    def close(self) -> None:
        """Cancels everything and ends the thread; see `Engine.close`."""
        with self._wake:
            self._is_closed = True
            for ticket in self._tickets.values():
                ticket.is_cancelled = True
            self._wake.notify()
        self._thread.join()

    def _checked_tokens_limit(self, request: GenerationRequest) -> int:
        prompt, context = len(request.prompt_token_ids), self.max_model_length
        if prompt == 0:
            raise InvalidRequestError("The prompt has no tokens.", parameter="prompt")
        if prompt >= context:
            raise ContextLengthError(
                f"This model's context holds {context} tokens, and the prompt alone has {prompt}. Shorten the prompt."
            )
        if not 1 <= request.n <= self._max_batch:
            raise InvalidRequestError(f"n must lie between 1 and {self._max_batch}.", parameter="n")
        unknown = [token for token in request.sampling.logit_bias if not 0 <= token < self._tools.vocabulary.size]
        if unknown:
            raise InvalidRequestError(f"This model has no token {unknown[0]}.", parameter="logit_bias")
        return min(request.max_tokens or context, context - prompt)

    # --- The engine's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._loaded.cpu_threads:
            torch.set_num_threads(self._loaded.cpu_threads)
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    self._drop_cancelled()
                    self._step_prefill()
                    self._step_decode()
                except Exception as error:  # the loop must live
                    logger.exception("a step of the engine failed")
                    self._fail_everything(error)

    def _wait_for_work(self) -> bool:
        """Sleeps while there is nothing to do. False: closed, and everything has been told so."""
        with self._wake:
            while not self._tickets and not self._is_closed:
                self._wake.wait()
            return bool(self._tickets) or not self._is_closed

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [ticket for ticket in self._tickets.values() if ticket.is_cancelled]
            if not gone:
                return
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_cancelled)
        rows = [choice for choice in self._batch.choices if choice.ticket.is_cancelled]
        for choice in rows:
            choice.ticket.deliver(choice.finish("cancelled"))
        self._batch.drop(rows)
        if self._prefill and all(ticket.is_cancelled for ticket in self._prefill.tickets):
            self._prefill = None
        for ticket in gone:
            if ticket.unfinished_choices:  # it had no row yet
                ticket.unfinished_choices = 0
                ticket.deliver(GenerationChunk(index=0, finish_reason="cancelled", usage=ticket.usage()))
            self._forget(ticket)

    def _step_prefill(self) -> None:
        if self._prefill is None:
            group = self._next_group()
            if not group:
                return
            self._prefill = Prefill(self._loaded.model, group)
        prefill = self._prefill
        try:
            logits = prefill.step()
        except Exception as error:
            logger.exception("the prompts of %s could not be worked on", [t.number for t in prefill.tickets])
            self._prefill = None
            self._give_up_prefill(prefill, error)
            return
        if logits is None:
            return
        self._prefill = None
        self._largest_group = self._max_batch
        for row, ticket in enumerate(prefill.tickets):
            if not ticket.is_cancelled:
                self._start_choices(ticket, prefill, row, logits[row])

    def _next_group(self) -> list[Ticket]:
        """Takes those who are next in line from the queue, as many as have room in the batch and in one piece."""
        room = self._max_batch - len(self._batch.choices)
        group: list[Ticket] = []
        with self._wake:
            while self._waiting and len(group) < self._largest_group:
                ticket = self._waiting[0]
                if ticket.request.n > room or (group and not may_join(group, ticket)):
                    break
                room -= ticket.request.n
                ticket.admitted_at = time.monotonic()
                group.append(self._waiting.popleft())
        return group

    def _give_up_prefill(self, prefill: Prefill, error: Exception) -> None:
        """Out of memory with several prompts: tries them again in smaller groups. Otherwise they fail."""
        tickets = [ticket for ticket in prefill.tickets if not ticket.is_over]
        prefill.cache.layers.clear()
        if _is_out_of_memory(error):
            _release_memory()
            if len(tickets) > 1:
                self._largest_group = max(1, len(tickets) // 2)
                with self._wake:
                    self._waiting.extendleft(reversed(tickets))
                return
        for ticket in tickets:
            self._fail(ticket, _failure(error))

    def _start_choices(self, ticket: Ticket, prefill: Prefill, row: int, logits: torch.Tensor) -> None:
        """Chooses the first token of each of a ticket's choices; those that go on join the batch."""
        ticket.first_token_at = time.monotonic()
        self._statistics.count_first_token(ticket.first_token_at - ticket.submitted_at, ticket.prompt_length)
        joined: list[Choice] = []
        try:
            for index in range(ticket.request.n):
                choice = Choice(ticket, index, self._tools)
                if bool(logits.isnan().any()):
                    raise not_a_number_error(choice)
                self._tell(ticket, choice.choose(logits))
                if choice.finish_reason is None:
                    self._batch.join(choice, prefill, row)
                    joined.append(choice)
        except Exception as error:
            logger.exception("request %d could not be started", ticket.number)
            self._batch.drop(joined)
            self._fail(ticket, _failure(error))
            return
        self._statistics.count_tokens(ticket.request.n)
        if not ticket.unfinished_choices:
            self._forget(ticket)

    def _step_decode(self) -> None:
        if not self._batch.choices:
            return
        try:
            logits = self._batch.decode()
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            youngest = max(choice.ticket.number for choice in self._batch.choices)
            logger.warning("out of memory with %d rows: request %d gives way", len(self._batch.choices), youngest)
            self._fail(self._tickets[youngest], _failure(error))
            _release_memory()
            return
        self._statistics.count_tokens(len(self._batch.choices))
        likeliest = logits.max(-1)
        # NaN wins every maximum, so one look at the maxima is enough.
        broken, token_ids = likeliest.values.isnan().tolist(), likeliest.indices.tolist()
        finished: list[Choice] = []
        for row, choice in enumerate(self._batch.choices):
            ticket = choice.ticket
            if ticket.is_over:  # another choice of the same request has just failed
                continue
            try:
                if broken[row]:
                    raise not_a_number_error(choice)
                chunk = choice.take(token_ids[row]) if choice.takes_likeliest else choice.choose(logits[row])
                self._tell(ticket, chunk)
            except Exception as error:
                logger.exception("request %d failed", ticket.number)
                self._fail(ticket, _failure(error), drop=False)
                finished.extend(other for other in self._batch.choices if other.ticket is ticket)
                continue
            if choice.finish_reason is not None:
                finished.append(choice)
        self._retire(finished)

    def _retire(self, finished: Sequence[Choice]) -> None:
        rows = list({id(choice): choice for choice in finished}.values())
        self._batch.drop(rows)
        for choice in rows:
            if not choice.ticket.unfinished_choices:
                self._forget(choice.ticket)

    def _tell(self, ticket: Ticket, chunk: GenerationChunk | None) -> None:
        if chunk is not None:
            ticket.deliver(chunk)

    def _fail(self, ticket: Ticket, error: EngineError, *, drop: bool = True) -> None:
        ticket.deliver(error)
        ticket.unfinished_choices = 0
        if drop:
            self._batch.drop([choice for choice in self._batch.choices if choice.ticket is ticket])
        self._forget(ticket)

    def _fail_everything(self, error: Exception) -> None:
        """Every request that has been admitted fails; those that wait get their chance."""
        self._batch.clear()
        self._prefill = None
        with self._wake:
            waiting = {ticket.number for ticket in self._waiting}
            admitted = [ticket for ticket in self._tickets.values() if ticket.number not in waiting]
        for ticket in admitted:
            self._fail(ticket, _failure(error), drop=False)
        _release_memory()

    def _forget(self, ticket: Ticket) -> None:
        ticket.is_over = True
        with self._wake:
            self._tickets.pop(ticket.number, None)


def _text_tools(loaded: LoadedModel, factories: Sequence[ProcessorFactory]) -> TextTools:
    tokenizer: Any = loaded.tokenizer
    vocabulary = Vocabulary(
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        decode=lambda ids: str(
            tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ),
        end_token_ids=loaded.end_token_ids,
        size=loaded.vocabulary_size,
    )
    return TextTools(tokenizer, TokenBytes(tokenizer), vocabulary, factories)


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has an exception of its own; the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _failure(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if _is_out_of_memory(error):
        return OutOfMemoryError(
            "The device has no memory left for this request. Shorten it, or serve with a smaller max_batch "
            "or max_model_length."
        )
    return GenerationFailedError(f"The generation failed: {type(error).__name__}: {error}")


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
