"""Which prompts are too like one that is known. Runs in the inference process of the verb `generate_data`.

The idea is that of Self-Instruct (Wang et al. 2022): a set grows more varied only by what is unlike the rest of it.
Compared are runs of characters, which works in every script and for a prompt of three words.
"""

from datasketch import MinHash

from training.data.likeness import Likenesses, signature_of

CHARACTERS_A_RUN = 4
COMPARED_CHARACTERS = 4_000
"""What stands behind them in a long prompt is not compared."""


class KnownPrompts:
    """The prompts there are: a new one is measured against all of them. Case and white space make no difference."""

    def __init__(self, threshold: float) -> None:
        self._likenesses = Likenesses(threshold)
        self._count = 0

    def add(self, prompt: str) -> None:
        """One more."""
        self._likenesses.add(self._count, _signature(prompt))
        self._count += 1

    def has_like(self, prompt: str) -> bool:
        """Whether one of them is so alike that this one brings nothing new."""
        return self._likenesses.first_alike(_signature(prompt)) is not None


def _signature(prompt: str) -> MinHash:
    text = " ".join(prompt[:COMPARED_CHARACTERS].casefold().split())
    return signature_of(text, CHARACTERS_A_RUN, "")
