"""What computes: the part of an engine that knows its library. What schedules (`engine.rolling`) is the same for all.

Runs in the engine's thread. A decoder works on prompts by itself (`Prompts`), in pieces, so that the rows that decode
are never held up for long; then each choice becomes a row of its `Rows`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import torch

from inference.engine.choice import Choice, Ticket
from inference.engine.prefixes import Kept


class Prompts(Protocol):
    """Prompts that are being worked on, side by side."""

    @property
    def tickets(self) -> Sequence[Ticket]:
        """Whose prompts they are, row by row."""

    @property
    def token_bytes(self) -> int:
        """The size of what is computed for one token."""

    @property
    def piece_tokens(self) -> int:
        """How many tokens the next step computes, 1 at least."""

    def step(self) -> torch.Tensor | None:
        """Works on the next piece. After the last one: the logits [tickets, vocabulary], fp32, behind each prompt."""

    def copied(self, row: int, length: int) -> Kept:
        """What was computed for the first `length` tokens of a prompt, to be kept."""

    def give_up(self) -> list[Ticket]:
        """Lets go of all that was computed or known; returns those who have no answer yet."""

    def close(self) -> None:
        """Every choice that goes on has joined the rows: gives back what the prompts hold."""


P = TypeVar("P", bound=Prompts)
P_contra = TypeVar("P_contra", bound=Prompts, contravariant=True)


class Rows(Protocol[P_contra]):
    """The choices that decode together."""

    @property
    def choices(self) -> Sequence[Choice]:
        """Row by row."""

    @property
    def token_bytes(self) -> int:
        """The size of what is computed for one token."""

    def join(self, choice: Choice, prompts: P_contra, row: int) -> None:
        """Adds a choice whose prompt is row `row` of prompts that have been worked on."""

    def decode(self) -> torch.Tensor:
        """One step of every row: feeds each choice's last token; returns logits [rows, vocabulary] as fp32, to be read
        before the next call and not written into. When it raises, nothing has changed and it can be done again."""

    def copied(self, choice: Choice, length: int) -> Kept:
        """What was computed for the first `length` tokens of a row that is about to leave, to be kept."""

    def drop(self, gone: Sequence[Choice]) -> None:
        """Takes rows out at once."""

    def clear(self) -> None:
        """Forgets all rows."""


class Decoder(Protocol[P]):
    """A loaded model."""

    @property
    def max_model_length(self) -> int:
        """The most tokens of prompt and completion together."""

    @property
    def rows(self) -> Rows[P]:
        """The rows, the same object for ever."""

    def at_work(self) -> AbstractContextManager[object]:
        """What the engine's thread is within, from its beginning to its end."""

    def admits(self, group: Sequence[Ticket], ticket: Ticket) -> bool:
        """Whether a prompt may be worked on now beside those of a group, which may be empty. With no row and no group
        it always may. What is known of its beginning may be let go of, where that is in the way."""

    def begin(self, tickets: Sequence[Ticket]) -> P:
        """Takes prompts in hand; computes nothing yet."""
