"""One answer in the making: a row of the batch, from its first token to its finish reason.

Runs in the engine's thread.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from inference.engine.base import (
    ChosenLogprob,
    Deliver,
    FinishReason,
    GenerationChunk,
    GenerationFailedError,
    GenerationRequest,
    TokenLogprob,
    Usage,
)
from inference.engine.sampling import Sampler
from inference.engine.stopping import StopMatcher
from inference.engine.text import IncrementalText, TokenBytes
from inference.processors import ProcessorFactory, Progress, Vocabulary


@dataclass
class Ticket:
    """A request in the engine. `tokens_limit` is its `max_tokens` within the context."""

    number: int
    request: GenerationRequest
    deliver: Deliver
    tokens_limit: int
    submitted_at: float = field(default_factory=time.monotonic)
    admitted_at: float = 0.0
    first_token_at: float = 0.0
    completion_tokens: int = 0
    unfinished_choices: int = 0
    is_cancelled: bool = False
    is_over: bool = False

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt_token_ids)

    def usage(self) -> Usage:
        """The figures of a request that has just finished."""
        now = time.monotonic()
        later_tokens, seconds = self.completion_tokens - self.request.n, now - self.first_token_at
        return Usage(
            prompt_tokens=self.prompt_length,
            completion_tokens=self.completion_tokens,
            queue_seconds=(self.admitted_at or now) - self.submitted_at,
            time_to_first_token_seconds=(self.first_token_at or now) - self.submitted_at,
            tokens_per_second=later_tokens / seconds if later_tokens > 0 and seconds > 0 else None,
        )


@dataclass(frozen=True)
class TextTools:
    """What choices need of the tokenizer and the profile; the same for all of them."""

    tokenizer: Any
    token_bytes: TokenBytes
    vocabulary: Vocabulary
    factories: Sequence[ProcessorFactory]


class Choice:
    """One of the `n` answers to a request. `length` counts its tokens in the cache, `last_token` is not there yet."""

    def __init__(self, ticket: Ticket, index: int, tools: TextTools) -> None:
        request = ticket.request
        self.ticket = ticket
        self.index = index
        self.length = ticket.prompt_length
        self.token_ids: list[int] = []
        self.last_token = -1
        self.finish_reason: FinishReason | None = None
        self.sampler = Sampler(request.sampling, list(request.prompt_token_ids), index)
        self._tools = tools
        self._text = IncrementalText(tools.tokenizer)
        self._stops = StopMatcher(request.stop)
        self._processors = [make(tools.vocabulary) for make in tools.factories] if request.apply_processors else []
        self._decoded = ""
        self._given_characters = 0
        self._untold_tokens: list[int] = []
        self._untold_logprobs: list[ChosenLogprob] = []

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is plainly the likeliest one, so that the whole batch can be asked at once."""
        wants_logprobs = self.ticket.request.top_logprobs is not None
        return self.sampler.is_plain_greedy and not wants_logprobs and not self._processors

    def choose(self, logits: torch.Tensor) -> GenerationChunk | None:
        """Chooses the next token from logits [vocabulary] (fp32) and takes it."""
        changed = self.sampler.penalise(logits)
        if self._processors:
            changed = changed.clone() if changed is logits else changed
            progress = self._progress()
            for processor in self._processors:
                changed = processor.process(changed, progress)
        token_id = self.sampler.choose(changed)
        top = self.ticket.request.top_logprobs
        if top is not None and token_id not in self._tools.vocabulary.end_token_ids:
            self._untold_logprobs.append(self._logprob(logits, token_id, top))
        return self.take(token_id)

    def take(self, token_id: int) -> GenerationChunk | None:
        """Takes the next token; returns what can be told because of it, if anything."""
        self.last_token = token_id
        self.token_ids.append(token_id)
        self._untold_tokens.append(token_id)
        self.sampler.note(token_id)
        self.ticket.completion_tokens += 1
        if token_id in self._tools.vocabulary.end_token_ids:
            return self.finish("stop")
        new = self._text.push(token_id)
        self._decoded += new
        text = self._stops.push(new)
        if self._stops.is_stopped:
            return self._close("stop", text)
        if self._processors and any(processor.is_complete(self._progress()) for processor in self._processors):
            return self.finish("stop", text)
        if len(self.token_ids) >= self.ticket.tokens_limit:
            return self.finish("length", text)
        return self._tell(text) if text else None

    def finish(self, reason: FinishReason, text: str = "") -> GenerationChunk:
        """Ends the choice; gives out what was held back."""
        rest = self._text.finish()
        self._decoded += rest
        text += self._stops.push(rest)
        if self._stops.is_stopped:
            return self._close("stop", text)
        return self._close(reason, text + self._stops.finish())

    def _close(self, reason: FinishReason, text: str) -> GenerationChunk:
        self.finish_reason = reason
        ticket = self.ticket
        ticket.unfinished_choices -= 1
        usage = ticket.usage() if ticket.unfinished_choices == 0 else None
        if self._stops.is_stopped:  # the tokens of a stop string are not part of the answer
            end = self._given_characters + len(text)
            self._untold_logprobs = [entry for entry in self._untold_logprobs if entry.text_offset < end]
        return self._tell(text, reason, usage)

    def _tell(self, text: str, reason: FinishReason | None = None, usage: Usage | None = None) -> GenerationChunk:
        chunk = GenerationChunk(
            index=self.index,
            text=text,
            token_ids=tuple(self._untold_tokens),
            logprobs=tuple(self._untold_logprobs),
            finish_reason=reason,
            usage=usage,
        )
        self._given_characters += len(text)
        self._untold_tokens, self._untold_logprobs = [], []
        return chunk

    def _progress(self) -> Progress:
        return Progress(self.ticket.request.prompt_token_ids, tuple(self.token_ids), self._decoded)

    def _logprob(self, logits: torch.Tensor, token_id: int, top: int) -> ChosenLogprob:
        logprobs = logits.log_softmax(-1)
        values, ids = logprobs.topk(top) if top else (logprobs[:0], logprobs[:0].long())
        likeliest = tuple(self._token_logprob(i, v) for i, v in zip(ids.tolist(), values.tolist(), strict=True))
        chosen = self._token_logprob(token_id, float(logprobs[token_id]))
        return ChosenLogprob(chosen, likeliest, text_offset=len(self._decoded))

    def _token_logprob(self, token_id: int, logprob: float) -> TokenLogprob:
        raw = self._tools.token_bytes.of(token_id)
        return TokenLogprob(token_id, raw.decode(errors="replace"), raw, logprob)


def not_a_number_error(choice: Choice) -> GenerationFailedError:
    """The error of a row whose logits are not numbers."""
    return GenerationFailedError(
        f"the model gave no number (NaN) after {choice.length} tokens; its weights or its dtype are at fault: "
        'try "dtype": "float32"'
    )
