"""The next token: against the library's own warpers, and by its odds."""

from collections import Counter

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference.engine import sampling
from inference.engine.base import SamplingParameters
from inference.engine.sampling import Sampler

VOCABULARY = 50


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def draws(parameters: SamplingParameters, scores: torch.Tensor, count: int) -> Counter[int]:
    sampler = Sampler(parameters, [], 0)
    return Counter(sampler.choose(scores) for _ in range(count))


@pytest.mark.parametrize(
    "parameters",
    [
        SamplingParameters(seed=1),
        SamplingParameters(seed=1, temperature=0.7, top_k=5),
        SamplingParameters(seed=1, temperature=1.5, top_p=0.8),
        SamplingParameters(seed=1, min_p=0.2),
        SamplingParameters(seed=1, temperature=0.9, top_k=20, top_p=0.9, min_p=0.05),
    ],
)
@pytest.mark.parametrize("head_tokens", [1024, 4])
def test_odds_are_those_of_the_librarys_warpers(
    parameters: SamplingParameters, head_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "HEAD_TOKENS", head_tokens)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(parameters.temperature)])
    if parameters.top_k:
        warpers.append(TopKLogitsWarper(parameters.top_k))
    if parameters.top_p < 1:
        warpers.append(TopPLogitsWarper(parameters.top_p))
    if parameters.min_p:
        warpers.append(MinPLogitsWarper(parameters.min_p))
    expected = warpers(torch.zeros(1, 0, dtype=torch.long), logits()[None])[0].softmax(-1)
    count = 4000
    drawn = draws(parameters, logits(), count)
    assert set(drawn) <= set(expected.nonzero().flatten().tolist())
    for token, odds in enumerate(expected.tolist()):
        # Five standard deviations: with a fixed seed this is decided once and for all.
        assert abs(drawn[token] / count - odds) < 5 * (odds * (1 - odds) / count) ** 0.5 + 1e-9


def test_a_seed_fixes_the_draws_and_choices_differ() -> None:
    def row(seed: int | None, choice: int) -> list[int]:
        sampler = Sampler(SamplingParameters(seed=seed), [], choice)
        return [sampler.choose(logits()) for _ in range(30)]

    assert row(7, 0) == row(7, 0)
    assert row(7, 0) != row(7, 1)
    assert row(7, 0) != row(8, 0)
    assert row(None, 0) != row(None, 0)
    assert row(-3, 0) == row(-3, 0)


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draws(SamplingParameters(temperature=0), logits(), 5) == {int(logits().argmax()): 5}


def test_repetition_penalty_is_the_librarys() -> None:
    sampler = Sampler(SamplingParameters(repetition_penalty=1.7), [1, 2, 2], 0)
    sampler.note(9)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[1, 2, 2, 9]]), logits()[None].clone())[0]
    assert torch.allclose(sampler.penalise(logits()), expected)


def test_presence_counts_once_frequency_every_time_and_neither_the_prompt() -> None:
    sampler = Sampler(SamplingParameters(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={4: -100.0}), [8], 0)
    for token in (3, 3, 3, 5):
        sampler.note(token)
    change = sampler.penalise(logits()) - logits()
    expected = torch.zeros(VOCABULARY)
    expected[3], expected[5], expected[4] = -1.25, -0.75, -100.0
    assert torch.allclose(change, expected, atol=1e-4)


def test_penalties_leave_the_callers_logits_alone() -> None:
    sampler, scores = Sampler(SamplingParameters(logit_bias={1: 5.0}), [], 0), logits()
    sampler.penalise(scores)
    assert torch.equal(scores, logits())
