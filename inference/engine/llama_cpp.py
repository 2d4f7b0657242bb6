"""The engine on llama.cpp: a model from a GGUF file, quantised, several times faster on a processor.

Runs in the inference process. The library computes; requests are scheduled, sampled and held to grammars as with
transformers. Adapters beside a model are not served: an adapter is exported as a model of its own.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from inference.engine.base import BASE_MODEL
from inference.engine.choice import TextTools, Ticket
from inference.engine.grammar import Grammars
from inference.engine.llama_library import LlamaLibrary, State
from inference.engine.llama_rows import LlamaPrompts, LlamaRows, Sequences
from inference.engine.loading import LoadedModel
from inference.engine.rolling import RollingEngine
from inference.processors import ProcessorFactory

WORTH_A_COPY = 2
"""What is kept is put back whole: so many times the tokens that are wanted of it, and not more, are worth it."""


class LlamaCppEngine(RollingEngine[LlamaPrompts]):
    """Serves one loaded export; `factories` make the processors of the model's profile."""

    def __init__(
        self,
        loaded: LoadedModel,
        factories: Sequence[ProcessorFactory],
        *,
        max_batch: int,
        max_queue: int,
        prefix_cache_bytes: int = 0,
    ) -> None:
        self._library: LlamaLibrary = loaded.model
        super().__init__(
            LlamaDecoder(self._library, loaded.max_model_length),
            TextTools.of(loaded, {BASE_MODEL: factories}),
            Grammars(loaded.tokenizer, loaded.vocabulary_size, loaded.end_token_ids),
            max_batch=max_batch,
            max_queue=max_queue,
            prefix_cache_bytes=prefix_cache_bytes,
        )

    def close(self) -> None:
        """Cancels everything, ends the thread and frees the model; see `Engine.close`."""
        super().close()
        self._library.close()


class LlamaDecoder:
    """A model in llama.cpp; `Decoder` says what its methods promise."""

    def __init__(self, library: LlamaLibrary, max_model_length: int) -> None:
        self._library = library
        self._sequences = Sequences(library)
        self.max_model_length = max_model_length
        self.rows = LlamaRows(library, self._sequences)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Torch chooses tokens only: threads of its own would take the processor from llama.cpp's."""
        torch.set_num_threads(1)
        yield

    def admits(self, group: Sequence[Ticket], ticket: Ticket) -> bool:
        """See `Decoder.admits`. A prompt joins others where all of them are one piece, and where the cache holds all
        that the rows, the group and it may grow to. What is known of it is left aside where little of that is wanted,
        or where only that has no room."""
        if ticket.beginning is not None and _kept_tokens(ticket) > WORTH_A_COPY * ticket.cached_tokens:
            ticket.beginning = None
        at_work = {member.number: member for member in (*group, *(choice.ticket for choice in self.rows.choices))}
        if not at_work:
            return True
        room = self._library.shape.cells - sum(map(_most_cells, at_work.values()))
        if _grown(ticket) <= room < _most_cells(ticket):
            ticket.beginning = None
        tokens = sum(member.prompt_length - member.cached_tokens for member in (*group, ticket))
        if group and tokens > self._library.shape.piece:
            return False
        return _most_cells(ticket) <= room

    def begin(self, tickets: Sequence[Ticket]) -> LlamaPrompts:
        """See `Decoder.begin`."""
        return LlamaPrompts(self._library, self._sequences, tickets)


def _most_cells(ticket: Ticket) -> int:
    """So many tokens the cache must hold for a request. What is known of its beginning may be more than it grows to,
    for a moment: it is put back as it was kept."""
    return max(_grown(ticket), _kept_tokens(ticket))


def _grown(ticket: Ticket) -> int:
    """So many tokens a request may come to; its answers have the prompt in common."""
    return ticket.prompt_length + ticket.request.n * ticket.tokens_limit


def _kept_tokens(ticket: Ticket) -> int:
    """How many tokens are kept where the prompt's beginning is from; 0 once that has been put back."""
    known: State | None = ticket.beginning.layers if ticket.beginning is not None else None
    return known.tokens if known is not None else 0
