"""Rows and prompts on llama.cpp: each is a sequence of the library's cache. Runs in the engine's thread.

What the rows and prompts at work may grow to is reserved before a request is admitted, so that the cache never runs
full in the middle of an answer.
"""

import logging
from collections.abc import Sequence

import torch

from inference.engine.choice import Choice, Ticket
from inference.engine.failures import CacheFullError
from inference.engine.llama_library import LlamaLibrary, State
from inference.engine.prefixes import Beginning

logger = logging.getLogger(__name__)


class Sequences:
    """The numbers of sequences that nobody uses."""

    def __init__(self, library: LlamaLibrary) -> None:
        self._library = library
        self._free = list(range(library.shape.sequences))

    def take(self) -> int:
        """A number of its own."""
        return self._free.pop()

    def give_back(self, sequence: int) -> None:
        """Nobody uses it any more: its tokens leave the cache."""
        self._library.forget(sequence)
        self._free.append(sequence)


class LlamaPrompts:
    """Prompts on their way to the rows, side by side; those of a group may have different lengths."""

    def __init__(self, library: LlamaLibrary, sequences: Sequences, tickets: Sequence[Ticket]) -> None:
        self._library = library
        self._sequences = sequences
        self.tickets = list(tickets)
        self.token_bytes = library.token_bytes
        self._done = [ticket.cached_tokens for ticket in tickets]
        self._numbers: list[int] = []
        self._logits: dict[int, torch.Tensor] = {}

    @property
    def piece_tokens(self) -> int:
        """See `Prompts.piece_tokens`."""
        left = sum(ticket.prompt_length - done for ticket, done in zip(self.tickets, self._done, strict=True))
        return min(left, self._library.shape.piece)

    def step(self) -> torch.Tensor | None:
        """See `Prompts.step`."""
        if not self._numbers:
            self._take_beginnings()
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[bool] = []
        ends: list[int] = []
        for row, ticket in enumerate(self.tickets):
            first, room = self._done[row], self._library.shape.piece - len(tokens)
            piece = ticket.request.prompt_token_ids[first : first + room]
            if not piece:
                continue
            tokens += piece
            positions += range(first, first + len(piece))
            sequences += [self._numbers[row]] * len(piece)
            is_last = first + len(piece) == ticket.prompt_length
            wanted += [False] * (len(piece) - 1) + [is_last]
            self._done[row] += len(piece)
            ends += [row] * is_last
        logits = self._library.compute(tokens, positions, sequences, wanted)
        self._logits |= {row: logits[place].clone() for place, row in enumerate(ends)}
        if len(self._logits) < len(self.tickets):
            return None
        return torch.stack([self._logits[row] for row in range(len(self.tickets))])

    def sequence(self, row: int) -> int:
        """Which sequence a prompt is."""
        return self._numbers[row]

    def copied(self, row: int, length: int) -> State:
        """See `Prompts.copied`: the prompt is of no further use to anybody."""
        self._library.forget(self._numbers[row], length)
        return self._library.state(self._numbers[row], length)

    def close(self) -> None:
        """See `Prompts.close`."""
        while self._numbers:
            self._sequences.give_back(self._numbers.pop())

    def give_up(self) -> list[Ticket]:
        """See `Prompts.give_up`."""
        self.close()
        for ticket in self.tickets:
            ticket.beginning = None
        return [ticket for ticket in self.tickets if not ticket.is_over]

    def _take_beginnings(self) -> None:
        """Copies what is known into the cache, before the first piece. What finds no room there is computed anew."""
        for row, ticket in enumerate(self.tickets):
            number = self._sequences.take()
            self._numbers.append(number)
            if ticket.beginning is None:
                continue
            try:
                self._library.restore(number, ticket.beginning.layers)
            except CacheFullError:
                logger.info("what is known of the prompt of request %d has no room: it is computed anew", ticket.number)
                ticket.beginning, self._done[row] = None, 0
                continue
            self._library.forget(number, ticket.beginning.length)
            ticket.beginning = Beginning(ticket.beginning.length, None)  # the copy is enough


class LlamaRows:
    """The rows that decode. `choices[i]` is the sequence `_numbers[i]`."""

    def __init__(self, library: LlamaLibrary, sequences: Sequences) -> None:
        self._library = library
        self._sequences = sequences
        self.token_bytes = library.token_bytes
        self.choices: list[Choice] = []
        self._numbers: list[int] = []

    def join(self, choice: Choice, prompts: LlamaPrompts, row: int) -> None:
        """See `Rows.join`. The prompt is not copied: the rows of one request share it."""
        number = self._sequences.take()
        self._library.share(prompts.sequence(row), number)
        self._numbers.append(number)
        self.choices.append(choice)

    def decode(self) -> torch.Tensor:
        """See `Rows.decode`."""
        tokens = [choice.last_token for choice in self.choices]
        positions = [choice.length for choice in self.choices]
        logits = self._library.compute(tokens, positions, self._numbers, [True] * len(tokens))
        for choice in self.choices:
            choice.length += 1
        return logits

    def copied(self, choice: Choice, length: int) -> State:
        """See `Rows.copied`."""
        number = self._numbers[self.choices.index(choice)]
        self._library.forget(number, length)
        return self._library.state(number, length)

    def drop(self, gone: Sequence[Choice]) -> None:
        """See `Rows.drop`."""
        for choice in gone:
            row = self.choices.index(choice)
            self._sequences.give_back(self._numbers[row])
            self.choices[row], self._numbers[row] = self.choices[-1], self._numbers[-1]
            self.choices.pop()
            self._numbers.pop()

    def clear(self) -> None:
        """See `Rows.clear`."""
        while self._numbers:
            self._sequences.give_back(self._numbers.pop())
        self.choices = []
