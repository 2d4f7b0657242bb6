"""The logits processor of the profile `emoji_think`: no think tag, and the end behind a complete stop run.

A run is found in decoded text, never in token ids: byte-pair encodings spread one emoji over several tokens and merge
two into one.
"""

from functools import lru_cache

import torch

from inference.processors.base import ProcessorFactory, Progress, Vocabulary
from training.profiles.emoji import STOP_COUNTS, asked_in, closing_run, run_at_end

THINK_TAG = "<think>"
THINK_PENALTY = -80.0
PROMPT_TOKENS_READ = 1024
"""The instructions end the user's last turn, so the end of a prompt holds them."""

TEXT_READ = 64
"""Characters of the answer's end that are looked at: more than any stop run has."""


class EmojiThinkProcessor:
    """Watches one answer. Where its prompt asks for a stop run, that run ends it; else the shortest that is allowed."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._contract_is_read = False
        self._asked_text = ""

    def process(self, logits: torch.Tensor, progress: Progress) -> torch.Tensor:
        """Penalises what would make a think tag; behind a complete stop run leaves the ends of text alone."""
        ends = _known(self._vocabulary.end_token_ids, logits)
        if ends and self.is_complete(progress):
            forced = torch.full_like(logits, -torch.inf)
            forced[ends] = 0.0
            return forced
        whole, closings = _tag_token_ids(self._vocabulary)
        penalised = _known(whole, logits)
        if progress.text.endswith(THINK_TAG[:-1]):
            penalised += _known(closings, logits)
        logits[penalised] += THINK_PENALTY
        return logits

    def is_complete(self, progress: Progress) -> bool:
        """Whether the text ends with the stop run. A token that holds more of it than was asked completes it too."""
        tail = progress.text[-TEXT_READ:].rstrip()
        if (found := run_at_end(tail)) is None:
            return False
        if asked := self._asked_run(progress):
            return tail.endswith(asked)
        return closing_run(tail) is not None and found.count >= STOP_COUNTS.start

    def _asked_run(self, progress: Progress) -> str:
        """The stop run that the prompt asks for, "" where it asks for none. Read once."""
        if not self._contract_is_read:
            prompt = self._vocabulary.decode(progress.prompt_token_ids[-PROMPT_TOKENS_READ:])
            contract = asked_in(prompt)
            self._asked_text = str(contract.stop) if contract else ""
            self._contract_is_read = True
        return self._asked_text


@lru_cache(maxsize=8)
def _tag_token_ids(vocabulary: Vocabulary) -> tuple[frozenset[int], frozenset[int]]:
    """The token that is a think tag, where there is one, and the tokens that close a tag spelled in several."""
    spelled = vocabulary.encode(THINK_TAG)
    closings = (vocabulary.encode(f">{after}")[:1] for after in ("", "\n", "\n\n"))
    return frozenset(spelled if len(spelled) == 1 else ()), frozenset(token for ids in closings for token in ids)


def _known(token_ids: frozenset[int], logits: torch.Tensor) -> list[int]:
    """Those of the ids that have a logit, in order."""
    return [token for token in sorted(token_ids) if 0 <= token < logits.shape[-1]]


FACTORIES: tuple[ProcessorFactory, ...] = (EmojiThinkProcessor,)
