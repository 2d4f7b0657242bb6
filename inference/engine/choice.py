"""One answer in the making: a row of the batch, from its first token to its finish reason.

Runs in the engine's thread.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

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
from inference.engine.grammar import Grammar
from inference.engine.loading import LoadedModel
from inference.engine.prefixes import Beginning
from inference.engine.sampling import Sampler
from inference.engine.stopping import StopMatcher
from inference.engine.text import IncrementalText, TokenBytes
from inference.processors import ProcessorFactory, Progress, Vocabulary


@dataclass
class Ticket:
    """A request in the engine. `tokens_limit` is its `max_tokens` within the context; `grammar` is its constraint,
    ready for its answers; `beginning` is what of its prompt has been worked on already, for an earlier request."""

    number: int
    request: GenerationRequest
    deliver: Deliver
    tokens_limit: int
    grammar: Grammar | None = None
    submitted_at: float = field(default_factory=time.monotonic)
    admitted_at: float = 0.0
    first_token_at: float = 0.0
    completion_tokens: int = 0
    unfinished_choices: int = 0
    beginning: Beginning | None = None
    is_cancelled: bool = False
    is_over: bool = False

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt needn't be worked on."""
        return self.beginning.length if self.beginning else 0

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
            cached_tokens=self.cached_tokens,
        )


@dataclass(frozen=True)
class TextTools:
    """What choices need of the tokenizer and the profiles; `factories` are those of the base and of each adapter."""

    tokenizer: Any
    token_bytes: TokenBytes
    vocabulary: Vocabulary
    factories: Mapping[str, Sequence[ProcessorFactory]]

    @classmethod
    def of(cls, loaded: LoadedModel, factories: Mapping[str, Sequence[ProcessorFactory]]) -> Self:
        """Those of a loaded model."""
        tokenizer = loaded.tokenizer
        vocabulary = Vocabulary(
            encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
            decode=lambda ids: str(
                tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            ),
            end_token_ids=loaded.end_token_ids,
            size=loaded.vocabulary_size,
        )
        return cls(tokenizer, TokenBytes(tokenizer), vocabulary, factories)


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
        factories = tools.factories[request.adapter] if request.apply_processors else ()
        self._processors = [make(tools.vocabulary) for make in factories]
        self._grammar = ticket.grammar.start() if ticket.grammar else None
        self._decoded = ""
        self._given_characters = 0
        self._untold_tokens: list[int] = []
        self._untold_logprobs: list[ChosenLogprob] = []

    @property
    def token_ids_in_cache(self) -> list[int]:
        """The tokens whose keys and values the batch holds: all but the last."""
        return [*self.ticket.request.prompt_token_ids, *self.token_ids][: self.length]

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is plainly the likeliest one, so that the whole batch can be asked at once."""
        wants_logprobs = self.ticket.request.top_logprobs is not None
        is_plain = self.sampler.is_plain_greedy and not self._processors and self._grammar is None
        return is_plain and not wants_logprobs

    def choose(self, logits: torch.Tensor) -> GenerationChunk | None:
        """Chooses the next token from logits [vocabulary] (fp32) and takes it."""
        changed = self.sampler.penalise(logits)
        if self._processors:
            changed = changed.clone() if changed is logits else changed
            progress = self._progress()
            for processor in self._processors:
                changed = processor.process(changed, progress)
        if self._grammar is not None:
            held = self._grammar.allow(changed)
            # A profile that forces what the grammar forbids leaves nothing: then the grammar alone decides.
            changed = held if bool(held.max() > -torch.inf) else self._grammar.allow(logits)
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
        if self._grammar is not None:
            self._grammar.take(token_id)
        new = self._text.push(token_id)
        self._decoded += new
        text = self._stops.push(new)
        if self._stops.is_stopped:
            return self._close("stop", text)
        if self._is_complete():
            return self.finish("stop", text)
        if len(self.token_ids) >= self.ticket.tokens_limit:
            return self.finish("length", text)
        return self._tell(text) if text else None

    def _is_complete(self) -> bool:
        """Whether the grammar has come to its end, or the profile finds the answer complete and the grammar lets it."""
        if self._grammar is not None and (self._grammar.is_complete or not self._grammar.may_end):
            return self._grammar.is_complete
        return bool(self._processors) and any(processor.is_complete(self._progress()) for processor in self._processors)

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
