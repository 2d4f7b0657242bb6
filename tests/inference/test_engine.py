"""The rolling batch, token for token against the library's `generate`, and what happens to those in it."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from inference.engine.base import (
    ContextLengthError,
    EngineClosedError,
    EngineError,
    GenerationRequest,
    InvalidRequestError,
    QueueFullError,
    SamplingParameters,
    stream,
)
from inference.engine.loading import LoadedModel
from inference.engine.rolling import RollingEngine
from tests.inference.conftest import MakeEngine
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Generate, Pending, chat, prompts, without_end
from tests.inference.serving import wait_for


@pytest.fixture
def small_engine(make_engine: MakeEngine) -> RollingEngine[Any]:
    """One row, and room for one request that waits."""
    return make_engine(max_batch=1, max_queue=1)


# --- The same tokens --------------------------------------------------------------------------------------------------


def test_alone_it_generates_what_generate_does(
    engine: RollingEngine[Any], loaded: LoadedModel, generate: Generate
) -> None:
    for question, answer in CHATS.items():
        prompt = chat(loaded, question)
        pending = Pending(engine, GenerationRequest(prompt, 100, GREEDY)).finish()
        assert pending.tokens() == generate(prompt, 100)
        assert (pending.text(), pending.reason()) == (answer, "stop")


def test_together_each_generates_what_it_does_alone(
    engine: RollingEngine[Any], loaded: LoadedModel, generate: Generate
) -> None:
    pending = [Pending(engine, GenerationRequest(prompt, 60, GREEDY)) for prompt in prompts(loaded)]
    for one in pending:
        assert one.finish().tokens() == generate(list(one.request.prompt_token_ids), 60)


def test_late_joiners_disturb_nobody(engine: RollingEngine[Any], loaded: LoadedModel, generate: Generate) -> None:
    started: list[Pending] = []
    for prompt in prompts(loaded):
        started.append(Pending(engine, GenerationRequest(prompt, 60, GREEDY)))
        started[-1].until(lambda one: len(one.tokens()) >= 4)
    for one in started:
        assert one.finish().tokens() == generate(list(one.request.prompt_token_ids), 60)


def test_the_window_grows_while_rows_come_and_go(engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    """Long answers past every buffer size, with neighbours that join and leave all the time."""
    request = GenerationRequest(chat(loaded, "Count."), 200, without_end(loaded))
    with torch.inference_mode():
        row = loaded.model.generate(
            torch.tensor([request.prompt_token_ids]), max_new_tokens=200, do_sample=False,
            suppress_tokens=sorted(loaded.end_token_ids),
        )[0]  # fmt: skip
    alone = Pending(engine, request)
    neighbours = prompts(loaded)[1:]
    for count, neighbour in enumerate(neighbours, start=1):
        alone.until(lambda one, enough=count * 25: len(one.tokens()) >= enough)  # type: ignore[misc]
        list(stream(engine, GenerationRequest(neighbour, 5, GREEDY)))
    assert not alone.is_over
    alone.finish()
    assert alone.tokens() == row[len(request.prompt_token_ids) :].tolist()
    assert alone.reason() == "length"


def test_a_seed_gives_the_same_text_alone_and_in_company(engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    sampling = SamplingParameters(temperature=1.5, seed=11)
    request = GenerationRequest(chat(loaded, "Count."), 40, sampling, n=3)
    alone = Pending(engine, request).finish()
    neighbour = Pending(engine, GenerationRequest(chat(loaded, "Say it in pictures."), 100, without_end(loaded)))
    neighbour.until(lambda one: len(one.tokens()) >= 2)
    beside = Pending(engine, request).finish()
    neighbour.finish()
    texts = [alone.text(index) for index in range(3)]
    assert texts == [beside.text(index) for index in range(3)]
    assert len(set(texts)) == 3
    assert alone.usage.completion_tokens == sum(len(alone.tokens(index)) for index in range(3))


# --- How an answer ends -----------------------------------------------------------------------------------------------


def test_a_stop_string_ends_the_text_before_it(engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    request = GenerationRequest(chat(loaded, "What is the anchor for?"), 60, GREEDY, stop=["the water", "ship w"])
    pending = Pending(engine, request).finish()
    assert (pending.text(), pending.reason()) == ("Ahoy! It holds the ", "stop")
    assert not any("ship" in chunk.text for chunk in pending.chunks)


def test_max_tokens_ends_it_and_is_counted(engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    prompt = chat(loaded, "Count.")
    pending = Pending(engine, GenerationRequest(prompt, 5, GREEDY)).finish()
    assert pending.reason() == "length"
    assert len(pending.tokens()) == 5
    assert (pending.usage.prompt_tokens, pending.usage.completion_tokens) == (len(prompt), 5)


def test_the_context_ends_it(engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    context = loaded.max_model_length
    prompt = (chat(loaded, "Count.") * 200)[: context - 3]
    pending = Pending(engine, GenerationRequest(prompt, None, without_end(loaded))).finish()
    assert (len(pending.tokens()), pending.reason()) == (3, "length")


def test_log_probabilities_are_the_models_own(engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    prompt = chat(loaded, "Say it in pictures.")
    sampling = replace(GREEDY, temperature=0.3, seed=1, presence_penalty=0.1)
    pending = Pending(engine, GenerationRequest(prompt, 100, sampling, top_logprobs=3)).finish()
    entries = [entry for chunk in pending.chunks for entry in chunk.logprobs]
    assert b"".join(entry.token.bytes for entry in entries).decode() == pending.text() == CHATS["Say it in pictures."]
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *(entry.token.token_id for entry in entries)]])
        expected = loaded.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    for entry, row in zip(entries, expected, strict=True):
        assert entry.token.logprob == pytest.approx(float(row[entry.token.token_id]), abs=1e-3)
        assert [token.token_id for token in entry.top] == row.topk(3).indices.tolist()
    assert all(pending.text()[entry.text_offset :].startswith(entry.token.text) for entry in entries[:3])


def test_stopped_text_takes_its_log_probabilities_along(engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    request = GenerationRequest(chat(loaded, "What is the anchor for?"), 60, GREEDY, stop=[" ship"], top_logprobs=0)
    pending = Pending(engine, request).finish()
    told = "".join(entry.token.text for chunk in pending.chunks for entry in chunk.logprobs)
    assert told == pending.text() == "Ahoy! It holds the"


# --- Who may come in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "parameter"),
    [
        ({"prompt_token_ids": [5] * 1024}, ContextLengthError, None),
        ({"prompt_token_ids": []}, InvalidRequestError, "prompt"),
        ({"n": 5}, InvalidRequestError, "n"),
        ({"sampling": SamplingParameters(logit_bias={99_999: 1.0})}, InvalidRequestError, "logit_bias"),
    ],
)
def test_what_can_not_be_done_is_refused_at_once(
    engine: RollingEngine[Any], change: dict[str, Any], error: type[EngineError], parameter: str | None
) -> None:
    with pytest.raises(error) as caught:
        engine.submit(replace(GenerationRequest([5, 6]), **change), lambda _: None)
    assert caught.value.parameter == parameter
    assert engine.stats().requests == 0


def test_a_full_queue_refuses_and_takes_again(small_engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    request = GenerationRequest(chat(loaded, "Count."), 900, without_end(loaded))
    first = Pending(small_engine, request).until(lambda one: bool(one.chunks))
    second = Pending(small_engine, request)
    with pytest.raises(QueueFullError):
        small_engine.submit(request, lambda _: None)
    assert (small_engine.stats().running, small_engine.stats().waiting) == (1, 1)
    small_engine.cancel(first.number)
    second.until(lambda one: bool(one.chunks))
    assert first.finish().reason() == "cancelled"
    Pending(small_engine, request)


# --- Who goes ---------------------------------------------------------------------------------------------------------


def test_cancelling_frees_the_row(small_engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    endless = GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded))
    pending = Pending(small_engine, endless).until(lambda one: bool(one.chunks))
    small_engine.cancel(pending.number)
    pending.finish()
    assert pending.reason() == "cancelled"
    assert len(pending.tokens()) < 900
    wait_for(lambda: True if small_engine.stats().running == 0 else None, "the row to be free")
    small_engine.cancel(pending.number)
    small_engine.cancel(12_345)


def test_a_request_that_waits_can_be_cancelled(small_engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    endless = GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded))
    Pending(small_engine, endless).until(lambda one: bool(one.chunks))
    waiting = Pending(small_engine, endless)
    small_engine.cancel(waiting.number)
    assert (waiting.finish().reason(), waiting.tokens()) == ("cancelled", [])
    assert small_engine.stats().waiting == 0


def test_whoever_stops_listening_cancels(small_engine: RollingEngine[Any], loaded: LoadedModel) -> None:
    chunks = stream(small_engine, GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded)))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    wait_for(lambda: True if small_engine.stats().running == 0 else None, "the row to be free")


def test_closing_cancels_everything(make_engine: MakeEngine, loaded: LoadedModel) -> None:
    engine = make_engine(max_batch=1, max_queue=4)
    endless = GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded))
    running, waiting = Pending(engine, endless).until(lambda one: bool(one.chunks)), Pending(engine, endless)
    engine.close()
    assert (running.finish().reason(), waiting.finish().reason()) == ("cancelled", "cancelled")
    with pytest.raises(EngineClosedError):
        engine.submit(endless, lambda _: None)
    assert not any(thread.name == "engine" and thread is engine._thread for thread in threading.enumerate())
