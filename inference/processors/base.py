"""What a profile may do while its model generates: change logits, and say that an answer is complete.

Runs wherever text is sampled: in the inference process and in a training run's samples. Knows neither engine nor HTTP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Vocabulary:
    """What a processor may know of the tokenizer: text to ids and back (special tokens left out), the ids that end a
    text, and the number of logits."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    end_token_ids: frozenset[int]
    size: int


@dataclass(frozen=True)
class Progress:
    """One answer so far. `text` is decoded text, whole characters only."""

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    text: str


class RowProcessor(Protocol):
    """Works on one answer and may keep state about it."""

    def process(self, logits: torch.Tensor, progress: Progress) -> torch.Tensor:
        """Takes logits [vocabulary] (fp32) before the next token is chosen and returns them, changed or not.

        It may write into the tensor that it gets.
        """

    def is_complete(self, progress: Progress) -> bool:
        """Whether the answer ends with the token just chosen, as if the model had ended it."""


ProcessorFactory = Callable[[Vocabulary], RowProcessor]
"""Makes the processor of one answer."""
