"""The engine's scheduling: one thread that owns the model and a rolling batch; any thread may submit and cancel.

Runs in the inference process. A step is: drop what was cancelled, work on the prompt of whoever is next, then decode
one token for every row. A request that fails takes nobody with it. What computes is a `Decoder`; whoever else has
something to compute with the model has it done here, between two steps (`compute`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic

import torch

from inference.engine.base import (
    ContextLengthError,
    Deliver,
    EngineClosedError,
    EngineError,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    InvalidRequestError,
    QueueFullError,
    Result,
)
from inference.engine.choice import Choice, TextTools, Ticket, not_a_number_error
from inference.engine.constraints import Constraint
from inference.engine.decoding import Decoder, P
from inference.engine.errands import Errands
from inference.engine.failures import as_engine_error, is_out_of_memory
from inference.engine.grammar import Grammars
from inference.engine.memory import Memory
from inference.engine.statistics import Statistics

logger = logging.getLogger(__name__)

PROMPT_TOKENS_A_STEP = 512
"""So many tokens of prompts are worked on at a time; then the rows that decode have their turn."""

TOKENS_A_PASS = 64
"""Few tokens take as long as so many: a pass goes through the whole model."""

TOKENS_A_SECOND_OF_WAITING = 512
"""A prompt goes before an older one that is longer, by so many tokens for each second that the other came before."""


class RollingEngine(Generic[P]):
    """Serves one decoder's model; `Engine` says what its methods promise.

    `max_batch` rows decode together at most, `max_queue` requests wait at most; `prefix_cache_bytes` of what was
    computed are kept for requests that begin as earlier ones did.
    """

    def __init__(
        self,
        decoder: Decoder[P],
        tools: TextTools,
        grammars: Grammars,
        *,
        max_batch: int,
        max_queue: int,
        prefix_cache_bytes: int = 0,
    ) -> None:
        self._decoder = decoder
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._tools = tools
        self._grammars = grammars
        self._wake = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._tickets: dict[int, Ticket] = {}
        self._errands = Errands()
        self._last_number = 0
        self._is_closed = False
        self._statistics = Statistics()
        self._batch = decoder.rows
        self._memory = Memory(prefix_cache_bytes)
        self._prefill: P | None = None
        self._largest_group = max_batch
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def max_model_length(self) -> int:
        """The most tokens of prompt and completion together."""
        return self._decoder.max_model_length

    # --- Any thread -------------------------------------------------------------------------------------------------

    def prepare(self, constraint: Constraint) -> None:
        """Makes a constraint ready; see `Engine.prepare`."""
        self._grammars.prepare(constraint)

    def submit(self, request: GenerationRequest, deliver: Deliver) -> int:
        """Queues a request; see `Engine.submit`."""
        tokens_limit = self._checked_tokens_limit(request)
        grammar = self._grammars.prepare(request.constraint) if request.constraint else None
        with self._wake:
            if self._is_closed:
                raise EngineClosedError("The engine is shutting down and takes no requests.")
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(f"{self._max_queue} requests are waiting already; try again shortly.")
            self._last_number += 1
            ticket = Ticket(self._last_number, request, deliver, tokens_limit, grammar, unfinished_choices=request.n)
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

    def compute(self, work: Callable[[], Result]) -> Result:
        """Does work in the engine's thread; see `Engine.compute`."""
        with self._wake:
            if self._is_closed:
                raise EngineClosedError("The engine is shutting down and computes nothing more.")
            outcome = self._errands.add(work)
            self._wake.notify()
        try:
            return outcome.result()
        finally:
            del outcome

    def stats(self) -> EngineStats:
        """Figures at this moment. `running` counts rows, those whose prompt is being worked on too."""
        with self._wake:
            statistics, waiting = self._statistics, len(self._waiting)
            running = sum(t.unfinished_choices for t in self._tickets.values()) - sum(
                t.unfinished_choices for t in self._waiting
            )
        return statistics.told(running=running, waiting=waiting, prefix_cache_bytes=self._memory.kept_bytes)

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
        if request.adapter not in self._tools.factories:
            raise InvalidRequestError(f"There is no adapter {request.adapter!r} in this engine.", parameter="model")
        if not 1 <= request.n <= self._max_batch:
            raise InvalidRequestError(f"n must lie between 1 and {self._max_batch}.", parameter="n")
        unknown = [token for token in request.sampling.logit_bias if not 0 <= token < self._tools.vocabulary.size]
        if unknown:
            raise InvalidRequestError(f"This model has no token {unknown[0]}.", parameter="logit_bias")
        return min(request.max_tokens or context, context - prompt)

    # --- The engine's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        with torch.inference_mode(), self._decoder.at_work():
            while self._wait_for_work():
                try:
                    self._errands.do_all()
                    self._drop_cancelled()
                    self._work_on_prompts()
                    self._step_decode()
                except Exception as error:  # the loop must live
                    logger.exception("a step of the engine failed")
                    self._fail_everything(error)

    def _wait_for_work(self) -> bool:
        """Sleeps while there is nothing to do. False: closed, and everything has been told so."""
        with self._wake:
            while not self._tickets and not self._errands and not self._is_closed:
                self._wake.wait()
            return bool(self._tickets or self._errands) or not self._is_closed

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [ticket for ticket in self._tickets.values() if ticket.is_cancelled]
            if not gone:
                return
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.is_cancelled)
        rows = [choice for choice in self._batch.choices if choice.ticket.is_cancelled]
        for choice in rows:
            choice.ticket.deliver(choice.finish("cancelled"))
        self._keep_rows(rows)
        self._batch.drop(rows)
        if self._prefill and all(ticket.is_cancelled for ticket in self._prefill.tickets):
            self._prefill.close()
            self._prefill = None
        for ticket in gone:
            if ticket.unfinished_choices:  # it had no row yet
                ticket.unfinished_choices = 0
                ticket.deliver(GenerationChunk(index=0, finish_reason="cancelled", usage=ticket.usage()))
            self._forget(ticket)

    def _work_on_prompts(self) -> None:
        """One group after the other, so that each has its first token as soon as may be, until this step's share is
        done."""
        done = 0
        while True:
            if self._prefill is None:
                group = self._next_group()
                if not group:
                    return
                self._prefill = self._decoder.begin(group)
            share = max(self._prefill.piece_tokens, TOKENS_A_PASS)
            if done and done + share > PROMPT_TOKENS_A_STEP:
                return
            done += share
            self._step_prefill(self._prefill)

    def _step_prefill(self, prefill: P) -> None:
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
        try:
            for row, ticket in enumerate(prefill.tickets):
                if not ticket.is_cancelled:
                    self._start_choices(ticket, prefill, row, logits[row])
        finally:
            prefill.close()

    def _next_group(self) -> list[Ticket]:
        """Takes those who are next in line from the queue, as many as have room in the batch and in one piece."""
        room = self._max_batch - len(self._batch.choices)
        group: list[Ticket] = []
        with self._wake:
            following = sorted(self._waiting, key=turn)[: self._largest_group]
        for ticket in following:
            if ticket.request.n > room:
                break
            ticket.beginning = self._memory.find(ticket.request.prompt_token_ids, ticket.request.adapter)
            if not self._decoder.admits(group, ticket):
                ticket.beginning = None  # what it would be spared may be gone when its turn comes
                break
            room -= ticket.request.n
            group.append(ticket)
        with self._wake:
            for ticket in group:
                self._waiting.remove(ticket)
                ticket.admitted_at = time.monotonic()
        return group

    def _give_up_prefill(self, prefill: P, error: Exception) -> None:
        """Out of memory: tries the prompts again without what was kept for later requests, or in smaller groups where
        nothing was. Otherwise they fail."""
        tickets = prefill.give_up()
        if is_out_of_memory(error):
            has_freed = self._memory.release(error)
            if has_freed or len(tickets) > 1:
                self._largest_group = self._largest_group if has_freed else max(1, len(tickets) // 2)
                with self._wake:
                    self._waiting.extendleft(reversed(tickets))
                return
        for ticket in tickets:
            self._fail(ticket, as_engine_error(error))

    def _start_choices(self, ticket: Ticket, prefill: P, row: int, logits: torch.Tensor) -> None:
        """Chooses the first token of each of a ticket's choices; those that go on join the batch."""
        ticket.first_token_at = time.monotonic()
        seconds = ticket.first_token_at - ticket.submitted_at
        self._statistics.count_first_token(seconds, ticket.prompt_length, ticket.cached_tokens)
        joined: list[Choice] = []
        try:
            for index in range(ticket.request.n):
                choice = Choice(ticket, index, self._tools)
                if bool(logits.isnan().any()):
                    raise not_a_number_error(choice)
                self._tell(ticket, choice.choose(logits))
                if choice.finish_reason is None:
                    self._memory.with_enough(partial(self._batch.join, choice, prefill, row))
                    joined.append(choice)
        except Exception as error:
            logger.exception("request %d could not be started", ticket.number)
            self._batch.drop(joined)
            self._fail(ticket, as_engine_error(error))
            return
        self._statistics.count_tokens(ticket.request.n)
        if not ticket.unfinished_choices:
            copied = partial(prefill.copied, row)
            self._memory.keep(ticket, ticket.request.prompt_token_ids, prefill.token_bytes, copied)
            self._forget(ticket)

    def _step_decode(self) -> None:
        if not self._batch.choices:
            return
        try:
            logits = self._memory.with_enough(self._batch.decode)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            youngest = max(choice.ticket.number for choice in self._batch.choices)
            logger.warning("out of memory with %d rows: request %d gives way", len(self._batch.choices), youngest)
            self._fail(self._tickets[youngest], as_engine_error(error))
            self._memory.release(error)
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
                self._fail(ticket, as_engine_error(error), drop=False)
                finished.extend(other for other in self._batch.choices if other.ticket is ticket)
                continue
            if choice.finish_reason is not None:
                finished.append(choice)
        self._retire(finished)

    def _retire(self, finished: Sequence[Choice]) -> None:
        rows = list({id(choice): choice for choice in finished}.values())
        self._keep_rows(rows)
        self._batch.drop(rows)
        for choice in rows:
            if not choice.ticket.unfinished_choices:
                self._forget(choice.ticket)

    def _keep_rows(self, rows: Sequence[Choice]) -> None:
        """Keeps what rows that leave have computed; of several choices the first, and of those that failed none."""
        for choice in rows:
            if choice.index == 0 and choice.finish_reason is not None:
                copied = partial(self._batch.copied, choice)
                self._memory.keep(choice.ticket, choice.token_ids_in_cache, self._batch.token_bytes, copied)

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
        if self._prefill is not None:
            self._prefill.give_up()
            self._prefill = None
        with self._wake:
            waiting = {ticket.number for ticket in self._waiting}
            admitted = [ticket for ticket in self._tickets.values() if ticket.number not in waiting]
        for ticket in admitted:
            self._fail(ticket, as_engine_error(error), drop=False)
        self._memory.release(error)

    def _forget(self, ticket: Ticket) -> None:
        ticket.is_over = True
        with self._wake:
            self._tickets.pop(ticket.number, None)


def turn(ticket: Ticket) -> float:
    """Whose is the smallest is next: short prompts go before long ones that haven't begun, and none waits for ever."""
    return ticket.submitted_at * TOKENS_A_SECOND_OF_WAITING + ticket.prompt_length
