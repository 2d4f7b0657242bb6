"""What goes wrong in an engine costs those whom it concerns: no memory, broken steps, no numbers, broken processors."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from inference.engine.base import GenerationFailedError, GenerationRequest, OutOfMemoryError
from inference.engine.loading import LoadedModel
from inference.engine.rolling import RollingEngine
from inference.engine.transformers import TransformersEngine
from inference.processors import Progress, Vocabulary
from tests.inference.conftest import MakeEngine
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Generate, Pending, chat, prompts


def test_out_of_memory_costs_the_youngest_alone(
    transformers_engine: TransformersEngine, loaded: LoadedModel, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device stands in: its allocator refuses once, half-way through a step, when two rows are in the batch."""
    attention = loaded.model.model.layers[2].self_attn
    original = attention.forward
    refusals: list[int] = []

    def refuse_once(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden_states.shape[:2] == (2, 1) and not refusals:
            refusals.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(hidden_states, *args, **kwargs)

    monkeypatch.setattr(attention, "forward", refuse_once)
    engine = transformers_engine
    older = Pending(engine, GenerationRequest(chat(loaded, "Count."), 60, GREEDY)).until(lambda one: bool(one.chunks))
    younger = Pending(engine, GenerationRequest(chat(loaded, "Say it in pictures."), 60, GREEDY)).finish()
    assert isinstance(younger.error, OutOfMemoryError)
    assert older.finish().tokens() == generate(list(older.request.prompt_token_ids), 60)


def test_prompts_that_do_not_fit_together_are_tried_one_by_one(
    transformers_engine: TransformersEngine, loaded: LoadedModel, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = loaded.model.model.layers[1].self_attn
    original = attention.forward
    refusals: list[int] = []

    def refuse_groups(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden_states.shape[0] > 1 and hidden_states.shape[1] > 1:
            refusals.append(hidden_states.shape[0])
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(hidden_states, *args, **kwargs)

    monkeypatch.setattr(attention, "forward", refuse_groups)
    # The first one is at work while the others gather in the queue.
    engine = transformers_engine
    first = Pending(engine, GenerationRequest(prompts(loaded)[1], 30, GREEDY))
    others = [Pending(engine, GenerationRequest(chat(loaded, question), 60, GREEDY)) for question in list(CHATS)[:3]]
    for one in [first, *others]:
        assert one.finish().tokens() == generate(list(one.request.prompt_token_ids), one.request.max_tokens or 0)
    assert refusals


def test_a_broken_step_fails_those_in_it_and_the_engine_lives(
    engine: RollingEngine[Any], loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: Any) -> torch.Tensor:
        raise RuntimeError("the card has fallen off the bus")

    request = GenerationRequest(chat(loaded, "Count."), 60, GREEDY)
    with monkeypatch.context() as patch:
        patch.setattr(engine._batch, "decode", break_down)
        failed = Pending(engine, request).finish()
    assert isinstance(failed.error, GenerationFailedError)
    assert "fallen off the bus" in str(failed.error)
    assert Pending(engine, request).finish().text() == CHATS["Count."]
    assert engine.stats().running == 0


def test_numbers_that_are_none_fail_their_own_request(
    engine: RollingEngine[Any], loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = engine._batch.decode

    def poison_last_row() -> torch.Tensor:
        logits = decode()
        if len(engine._batch.choices) == 2:
            logits[1] = torch.nan
        return logits

    monkeypatch.setattr(engine._batch, "decode", poison_last_row)
    healthy = Pending(engine, GenerationRequest(chat(loaded, "Count."), 60, GREEDY)).until(lambda one: bool(one.chunks))
    poisoned = Pending(engine, GenerationRequest(chat(loaded, "Say it in pictures."), 60, GREEDY)).finish()
    assert isinstance(poisoned.error, GenerationFailedError)
    assert healthy.finish().text() == CHATS["Count."]


# --- Processors -------------------------------------------------------------------------------------------------------


class Parrot:
    """A sample profile: forces a word again and again, and holds an answer of three of them for complete."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._word = vocabulary.encode("sail ")

    def process(self, logits: torch.Tensor, progress: Progress) -> torch.Tensor:
        forced = self._word[len(progress.token_ids) % len(self._word)]
        return torch.full_like(logits, -torch.inf).index_fill_(0, torch.tensor([forced]), 0.0)

    def is_complete(self, progress: Progress) -> bool:
        return progress.text.count("sail ") == 3


class Grumbler(Parrot):
    """Breaks down at the third token."""

    def process(self, logits: torch.Tensor, progress: Progress) -> torch.Tensor:
        if len(progress.token_ids) == 3:
            raise ValueError("no more of this")
        return logits


def test_a_profile_shapes_and_ends_an_answer(make_engine: MakeEngine, loaded: LoadedModel) -> None:
    engine = make_engine([Parrot], max_batch=2, max_queue=8)
    request = GenerationRequest(chat(loaded, "Count."), 60, GREEDY)
    shaped = Pending(engine, request)
    free = Pending(engine, replace(request, apply_processors=False))
    assert (shaped.finish().text(), shaped.reason()) == ("sail sail sail ", "stop")
    assert free.finish().text() == CHATS["Count."]


def test_a_broken_processor_fails_its_own_request(make_engine: MakeEngine, loaded: LoadedModel) -> None:
    engine = make_engine([Grumbler], max_batch=2, max_queue=8)
    request = GenerationRequest(chat(loaded, "Count."), 60, GREEDY)
    free, broken = Pending(engine, replace(request, apply_processors=False)), Pending(engine, request)
    assert "no more of this" in str(broken.finish().error)
    assert free.finish().text() == CHATS["Count."]
