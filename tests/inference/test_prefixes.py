"""Beginnings that are known already: what is kept, what is found, and that answers stay what they were."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inference.engine.base import GenerationRequest
from inference.engine.batch import RollingBatch
from inference.engine.loading import LoadedModel
from inference.engine.prefixes import BLOCK_TOKENS, MOST_KEPT, Layers, PrefixStore
from inference.engine.transformers import TransformersEngine
from inference.engine.window import WindowCache
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Generate, Pending, chat, without_end

TOKEN_BYTES = 16


def layers(tokens: int) -> Layers:
    return [(torch.ones(1, tokens, 2), torch.ones(1, tokens, 2))]


def store_with(*texts: list[int], limit_tokens: int = 1000) -> PrefixStore:
    store = PrefixStore(limit_tokens * TOKEN_BYTES)
    for text in texts:
        store.keep(text, "", TOKEN_BYTES, layers)
    return store


def test_the_longest_beginning_is_found_in_whole_blocks() -> None:
    store = store_with(list(range(50)), [*range(40), 7, 7, 7])
    assert store.find([99, *range(50)], "") is None
    assert store.find(list(range(BLOCK_TOKENS)), "") is None  # its last token must be computed
    for tokens, length in ((range(20), 16), (range(33), 32), (range(49), 48), (range(500), 48)):
        found = store.find(list(tokens), "")
        assert found is not None
        assert found.length == length
    assert store.find(list(range(33)), "of an adapter") is None


def test_what_is_known_is_not_copied_and_its_beginnings_are_not_kept_twice() -> None:
    store = store_with(list(range(20)), list(range(60)))
    assert store.size_bytes == 60 * TOKEN_BYTES

    def refuse(_: int) -> Layers:
        raise AssertionError("copied")

    store.keep(list(range(30)), "", TOKEN_BYTES, refuse)
    store.keep(list(range(BLOCK_TOKENS - 1)), "", TOKEN_BYTES, refuse)
    PrefixStore(0).keep(list(range(30)), "", TOKEN_BYTES, refuse)


def test_those_without_use_go_first() -> None:
    first, second, third = ([number, *range(29)] for number in (1, 2, 3))
    store = store_with(first, second, limit_tokens=60)
    assert store.find(first, "")
    store.keep(third, "", TOKEN_BYTES, layers)
    assert store.find(second, "") is None
    assert store.find(first, "")
    assert store.find(third, "")
    assert store.size_bytes == 60 * TOKEN_BYTES
    store.clear()
    assert (store.find(first, ""), store.size_bytes) == (None, 0)


def test_of_a_text_that_is_too_long_its_beginning_is_kept() -> None:
    store = store_with(list(range(40)), list(range(500)), limit_tokens=100)
    found = store.find(list(range(500)), "")
    assert found is not None
    assert found.length == 96
    assert store.size_bytes == 100 * TOKEN_BYTES
    one_block_too_small = store_with(list(range(500)), limit_tokens=BLOCK_TOKENS - 1)
    assert one_block_too_small.find(list(range(500)), "") is None


def test_no_more_are_kept_than_can_be_looked_through() -> None:
    texts = [[number, *range(BLOCK_TOKENS)] for number in range(MOST_KEPT + 1)]
    store = store_with(*texts, limit_tokens=10**6)
    assert store.find(texts[0], "") is None
    assert store.find(texts[1], "")
    assert store.find(texts[-1], "")


@pytest.fixture
def keeping_engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(loaded, [], max_batch=4, max_queue=64, prefix_cache_bytes=2**26)
    yield engine
    engine.close()


def test_a_conversation_goes_on_where_it_was_and_says_the_same(
    keeping_engine: TransformersEngine, loaded: LoadedModel, generate: Generate
) -> None:
    past = chat(loaded, "Count.")
    for question in ("Say it in pictures.", "What is the anchor for?", "Count."):
        first = Pending(keeping_engine, GenerationRequest(past, 60, GREEDY)).finish()
        past = [*past, *first.tokens(), *loaded.encoder.encode("\n"), *chat(loaded, question)]
        following = Pending(keeping_engine, GenerationRequest(past, 60, GREEDY)).finish()
        assert following.tokens() == generate(past, 60)
        known = first.usage.prompt_tokens + len(first.tokens()) - 1  # its last token was fed to nobody
        assert len(past) > following.usage.cached_tokens >= known // BLOCK_TOKENS * BLOCK_TOKENS > 0
    stats = keeping_engine.stats()
    assert stats.prefix_hits == 5  # each but the very first
    assert 0 < stats.cached_prompt_tokens < stats.prompt_tokens
    assert stats.prefix_cache_bytes > 0


def test_prompts_of_one_beginning_are_worked_on_together_and_with_others(
    keeping_engine: TransformersEngine, loaded: LoadedModel, generate: Generate
) -> None:
    opening = (chat(loaded, "Count.") * 40)[:600]  # longer than a piece
    questions = [chat(loaded, question) for question in CHATS]
    Pending(keeping_engine, GenerationRequest([*opening, *questions[0]], 4, GREEDY)).finish()
    busy = Pending(keeping_engine, GenerationRequest(questions[0], 80, without_end(loaded))).until(
        lambda p: bool(p.chunks)
    )
    prompts = [*([*opening, *question] for question in questions[1:]), *questions[1:]]
    pending = [Pending(keeping_engine, GenerationRequest(prompt, 40, GREEDY)) for prompt in prompts]
    for one, prompt in zip(pending, prompts, strict=True):
        assert one.finish().tokens() == generate(prompt, 40)
        assert (one.usage.cached_tokens >= 592) == (len(prompt) > 600)
    busy.finish()


def test_what_ends_at_its_first_token_is_kept_too(keeping_engine: TransformersEngine, loaded: LoadedModel) -> None:
    prompt = chat(loaded, "Tell me about the sail and the wheel, please, and do take your time.")
    request = GenerationRequest(prompt, 1, GREEDY)
    first, second = (Pending(keeping_engine, request).finish() for _ in range(2))
    assert first.tokens() == second.tokens()
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == (len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def test_what_is_kept_goes_before_a_request_fails_for_want_of_memory(
    keeping_engine: TransformersEngine, loaded: LoadedModel, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device stands in: its allocator refuses while anything is kept, wherever an answer needs memory."""
    prompt = chat(loaded, "Tell me about the sail and the wheel, please, and do take your time.")
    for owner, name in ((WindowCache, "begin"), (RollingBatch, "join"), (RollingBatch, "decode")):
        Pending(keeping_engine, GenerationRequest(prompt, 4, GREEDY)).finish()
        work = getattr(owner, name)
        refusals: list[int] = []

        def refuse(*args: Any, work: Any = work, refusals: list[int] = refusals) -> Any:
            if keeping_engine.stats().prefix_cache_bytes:
                refusals.append(1)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return work(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            pending = [Pending(keeping_engine, GenerationRequest(prompt, 60, GREEDY)) for _ in range(2)]
            assert [one.finish().tokens() for one in pending] == [generate(prompt, 60)] * 2, name
        assert refusals, name


def test_without_room_nothing_is_kept(engine: TransformersEngine, loaded: LoadedModel) -> None:
    request = GenerationRequest(chat(loaded, "Count."), 4, GREEDY)
    assert [Pending(engine, request).finish().usage.cached_tokens for _ in range(2)] == [0, 0]
