"""The rolling batch: rows of one model that decode together while others join and leave.

Runs in the engine's thread, under `torch.inference_mode()`. It knows tensors and choices, neither queues nor clients.
A prompt is first worked on by itself (`Prefill`), with several short prompts side by side and a long one in pieces,
so that the rows that decode are never held up for longer than one piece takes; then its row joins the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch

from inference.engine.adapters import AdapterRows
from inference.engine.choice import Choice, Ticket
from inference.engine.prefixes import Beginning, Layers
from inference.engine.window import WindowCache

PREFILL_TOKENS = 512
"""The longest piece of a prompt, and on a GPU the most of several that are worked on side by side."""

PREFILL_TOKENS_ON_CPU = 64
"""The most of several prompts side by side where there is no GPU: a processor gains nothing by more of them at once,
and those who come first would wait for all."""


class Prefill:
    """Prompts on their way into the batch. Prompts of a group stand padded on the right: causal attention never looks
    there, so no mask is needed and each prompt computes what it would compute alone. What a prompt is known to begin
    with is not computed again; it has the same length in all prompts of a group."""

    def __init__(self, model: Any, tickets: Sequence[Ticket], adapters: AdapterRows) -> None:
        self._model = model
        self._adapters = adapters
        self.tickets = list(tickets)
        self._lengths = [ticket.prompt_length for ticket in tickets]
        self._done = tickets[0].cached_tokens
        longest = max(self._lengths)
        rows = [[*t.request.prompt_token_ids, *[0] * (longest - t.prompt_length)] for t in tickets]
        self._ids = torch.tensor(rows)  # on the device there are only the pieces: nothing is allocated before a step
        self.cache = WindowCache(rows=len(rows), capacity_columns=longest)

    @property
    def token_bytes(self) -> int:
        """The size of one token's keys and values."""
        return self.cache.token_bytes

    def copied(self, row: int, length: int) -> Layers:
        """Keys and values of the first `length` tokens of a prompt that has been worked on."""
        return self.cache.copied(row, 0, length)

    @property
    def piece_tokens(self) -> int:
        """See `Prompts.piece_tokens`: padding is computed too."""
        return len(self.tickets) * min(PREFILL_TOKENS, self._ids.shape[1] - self._done)

    def step(self) -> torch.Tensor | None:
        """Works on the next piece. After the last one: the logits [tickets, vocabulary] behind each prompt."""
        self._take_beginnings()
        piece = self._ids[:, self._done : self._done + PREFILL_TOKENS].to(self._model.device)
        width = piece.shape[1]
        is_last = self._done + width == self._ids.shape[1]
        positions = torch.arange(self._done, self._done + width, device=piece.device)
        ends = [length - 1 - self._done for length in self._lengths] if is_last else [width - 1]
        columns = sorted(set(ends))
        self._adapters.set([ticket.request.adapter for ticket in self.tickets])
        logits = self._model(
            input_ids=piece,
            position_ids=positions.unsqueeze(0).expand(len(self.tickets), -1),
            cache=self.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(columns, device=piece.device),
        ).logits
        self.cache.advance(width)
        self._done += width
        if not is_last:
            return None
        return torch.stack([logits[row, columns.index(end)] for row, end in enumerate(ends)]).float()

    def close(self) -> None:
        """Lets go of all that was computed."""
        self.cache.layers.clear()

    def give_up(self) -> list[Ticket]:
        """Lets go of all that was computed or known; returns those who have no answer yet."""
        self.close()
        for ticket in self.tickets:
            ticket.beginning = None
        return [ticket for ticket in self.tickets if not ticket.is_over]

    def _take_beginnings(self) -> None:
        """Copies what is known into the cache, before the first piece."""
        known = [ticket.beginning.layers for ticket in self.tickets if ticket.beginning and ticket.beginning.layers]
        if not known:
            return
        self.cache.begin(known, self._done)
        for ticket in self.tickets:  # the copy is enough: what is given up meanwhile need not stay for it
            ticket.beginning = Beginning(self._done, [])


def may_join(group: Sequence[Ticket], ticket: Ticket, most_tokens: int) -> bool:
    """Whether a further prompt may be worked on beside those of a group: as much of it must be known as of them, and
    the padded whole of what is not known has `most_tokens` at most."""
    known = group[0].cached_tokens
    longest = max(ticket.prompt_length, *(member.prompt_length for member in group)) - known
    return ticket.cached_tokens == known and longest * (len(group) + 1) <= most_tokens


class RollingBatch:
    """The rows that decode. `choices[i]` is row i of the cache."""

    def __init__(self, model: Any, adapters: AdapterRows) -> None:
        self._model = model
        self._adapters = adapters
        self._cache = WindowCache(rows=0)
        self.choices: list[Choice] = []

    def join(self, choice: Choice, prompts: Prefill, row: int) -> None:
        """Adds a choice whose prompt is row `row` of a finished prefill."""
        self._cache.append(prompts.cache, row, choice.length)
        self.choices.append(choice)

    @property
    def token_bytes(self) -> int:
        """The size of one token's keys and values."""
        return self._cache.token_bytes

    def copied(self, choice: Choice, length: int) -> Layers:
        """Keys and values of the first `length` tokens of a row."""
        first = self._cache.window.end - choice.length
        return self._cache.copied(self.choices.index(choice), first, length)

    def decode(self) -> torch.Tensor:
        """One step of every row: feeds each choice's last token; returns logits [rows, vocabulary] as fp32.

        When it raises, nothing has changed and the step can be done again.
        """
        device = self._model.device
        self._cache.reserve(1)
        lengths = [choice.length for choice in self.choices]
        width = self._cache.window.width
        mask = None
        if min(lengths) != width:
            first = torch.tensor([width - length for length in lengths], device=device)
            mask = (torch.arange(width + 1, device=device) >= first[:, None]).long()
        self._adapters.set([choice.ticket.request.adapter for choice in self.choices])
        logits = self._model(
            input_ids=torch.tensor([[choice.last_token] for choice in self.choices], device=device),
            position_ids=torch.tensor([[length] for length in lengths], device=device),
            attention_mask=mask,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self._cache.advance(1)
        for choice in self.choices:
            choice.length += 1
        result: torch.Tensor = logits[:, -1].float()
        return result

    def drop(self, gone: Sequence[Choice]) -> None:
        """Takes rows out at once; the others close the gap."""
        if not gone:
            return
        for choice in gone:
            row = self.choices.index(choice)
            self._cache.remove(row)
            self.choices[row] = self.choices[-1]
            self.choices.pop()
        if self.choices:
            self._cache.trim(max(choice.length for choice in self.choices))
        else:
            self.clear()

    def clear(self) -> None:
        """Forgets all rows and gives the buffers back."""
        self.choices = []
        self._cache = WindowCache(rows=0)
