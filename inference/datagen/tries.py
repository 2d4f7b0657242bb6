"""What a strategy is made of: tries, each of which ends in one row or in the reason why there is none.

Runs in the inference process of the verb `generate_data`; knows neither torch nor the engine. A strategy doesn't ask
the model itself: its try yields questions and is sent the answers, so that many tries are under way at once and the
batch stays full.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from training.data.specs import Message

Reason = Literal["check", "duplicate", "similar", "failed", "unreadable"]
"""Why a try gives no row: the profile's check, a row or a prompt that there is already, an engine's error, and text in
which there is nothing to use."""


@dataclass(frozen=True)
class Question:
    """A conversation that the model goes on with, with `apply_profile` as the profile has it.

    `new_prompt` is what the question is about where the model has made it up: the try ends here if it is like one that
    is known.
    """

    messages: Sequence[Message]
    apply_profile: bool = True
    new_prompt: str = ""


@dataclass(frozen=True)
class Row:
    """What is to be kept, the row of the seeds that it comes from, and the prompt that is new in it."""

    messages: Sequence[Message]
    seed_row: int | None = None
    new_prompt: str = ""


@dataclass(frozen=True)
class Drop:
    """A try without a row. `detail` is a sentence on this one."""

    reason: Reason
    detail: str = ""


End = Row | Drop
Steps = Generator[Question, str, End]
"""A try that asks: yields questions, is sent what the model says, stripped and never empty."""

Try = Steps | Row | Drop
"""What needs no model is its own end."""


class Strategy(Protocol):
    """A way of making rows. Its tries are numbered from 0; the same number is always the same try."""

    def tries(self, first: int) -> Iterator[Try]:
        """The tries from the number `first` on, until nothing is left to try."""


@dataclass(frozen=True)
class Outcome:
    """How the try of a number ended, the prompt that it has made up ("": none), and the tokens that it took."""

    number: int
    end: End
    new_prompt: str = ""
    tokens: int = 0


def made(tries: Iterable[Try], first: int) -> Iterator[Outcome]:
    """The outcomes of tries that ask nothing, numbered from `first` on. Raises TypeError for one that asks."""
    for number, found in enumerate(tries, start=first):
        if not isinstance(found, Row | Drop):
            raise TypeError("this try asks a model")
        yield Outcome(number, found)
