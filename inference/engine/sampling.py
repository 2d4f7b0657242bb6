"""Choosing the next token of one row from its logits.

Runs in the inference process. The order is the library's: bias and penalties, the profile's processors, temperature,
then top-k, top-p, min-p. A row draws from a generator of its own, so that a seed gives the same text whoever else is
in the batch.
"""

from collections import Counter

import torch

from inference.engine.base import SamplingParameters

HEAD_TOKENS = 1024


class Sampler:
    """The sampling state of one choice: its generator and what it has generated so far."""

    def __init__(self, parameters: SamplingParameters, prompt_token_ids: list[int], choice: int) -> None:
        self._parameters = parameters
        self._generator = torch.Generator()  # on the CPU whatever the device: the same seed, the same numbers
        if parameters.seed is None:
            self._generator.seed()
        else:
            # The choices of one request differ, and differ from those of the neighbouring seeds.
            self._generator.manual_seed((parameters.seed * 1_000_003 + choice) % (1 << 63))
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt_token_ids) if parameters.repetition_penalty != 1.0 else set()

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the choice is the likeliest token of the logits as they are."""
        return self._parameters.temperature == 0 and not self.changes_logits

    @property
    def changes_logits(self) -> bool:
        """Whether bias or penalties are at work."""
        p = self._parameters
        return bool(p.logit_bias or p.presence_penalty or p.frequency_penalty) or p.repetition_penalty != 1.0

    def note(self, token_id: int) -> None:
        """Remembers a token that was chosen, for the penalties."""
        if self.changes_logits:
            self._counts[token_id] += 1
            if self._parameters.repetition_penalty != 1.0:
                self._seen.add(token_id)

    def penalise(self, logits: torch.Tensor) -> torch.Tensor:
        """Applies repetition penalty, presence and frequency penalty and bias. Takes and returns [vocabulary]."""
        if not self.changes_logits:
            return logits
        p, logits = self._parameters, logits.clone()
        if self._seen:
            seen = torch.tensor(sorted(self._seen), device=logits.device)
            scores = logits[seen]
            penalty = p.repetition_penalty
            logits[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
        if self._counts and (p.presence_penalty or p.frequency_penalty):
            ids = torch.tensor(list(self._counts), device=logits.device)
            counts = torch.tensor(list(self._counts.values()), device=logits.device, dtype=logits.dtype)
            logits[ids] -= p.presence_penalty + p.frequency_penalty * counts
        for token_id, bias in p.logit_bias.items():
            logits[token_id] += bias
        return logits

    def choose(self, logits: torch.Tensor) -> int:
        """The next token from logits [vocabulary], fp32, penalties and processors already applied."""
        p = self._parameters
        if p.temperature == 0:
            return int(logits.argmax())
        probabilities, ids = _candidates(logits / p.temperature, p)
        draw = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        cumulative = probabilities.double().cumsum(0)
        place = int(torch.searchsorted(cumulative, draw * float(cumulative[-1]), right=True))
        if place == len(cumulative):  # a draw at the very top, rounded up
            place = int(probabilities.nonzero()[-1])
        return place if ids is None else int(ids[place])


def _candidates(scores: torch.Tensor, p: SamplingParameters) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probabilities after top-k, top-p and min-p, and the ids they belong to (None: the whole vocabulary in order).

    They need not add up to 1. The likeliest token is always left.
    """
    ids: torch.Tensor | None = None
    if 0 < p.top_k < scores.shape[-1]:
        scores, ids = scores.topk(p.top_k)
    probabilities = scores.softmax(-1)
    if p.top_p < 1.0:
        if ids is None:
            probabilities, ids = _head(probabilities, p.top_p)
        before = probabilities.cumsum(0) - probabilities
        keep = before < p.top_p
        keep[0] = True
        probabilities = torch.where(keep, probabilities, 0.0)
    if p.min_p > 0.0:
        probabilities = torch.where(probabilities >= p.min_p * probabilities.max(), probabilities, 0.0)
    return probabilities, ids


def _head(probabilities: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens in falling order, enough of them to hold `mass`: sorting a whole vocabulary is slow."""
    if probabilities.shape[-1] > HEAD_TOKENS:
        head, ids = probabilities.topk(HEAD_TOKENS)
        if float(head.sum()) >= mass:
            return head, ids
    return probabilities.sort(descending=True, stable=True)
