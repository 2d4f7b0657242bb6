"""The rolling batch, token for token against the library's `generate`, and what happens to those in it."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from inference.engine.base import (
    ContextLengthError,
    Delivery,
    EngineClosedError,
    EngineError,
    GenerationChunk,
    GenerationFailedError,
    GenerationRequest,
    InvalidRequestError,
    OutOfMemoryError,
    QueueFullError,
    SamplingParameters,
    Usage,
    stream,
)
from inference.engine.batch import PREFILL_TOKENS
from inference.engine.loading import LoadedModel
from inference.engine.transformers import TransformersEngine
from inference.processors import ProcessorFactory, Progress, Vocabulary
from tests.inference.models import CHATS
from tests.inference.serving import wait_for

GREEDY = SamplingParameters(temperature=0)
Generate = Callable[[list[int], int], list[int]]


@dataclass
class Pending:
    """A request under way, with everything that it has delivered."""

    engine: TransformersEngine
    request: GenerationRequest
    inbox: "queue.SimpleQueue[Delivery]" = field(default_factory=queue.SimpleQueue)
    chunks: list[GenerationChunk] = field(default_factory=list)
    error: EngineError | None = None

    def __post_init__(self) -> None:
        self.number = self.engine.submit(self.request, self.inbox.put)

    @property
    def is_over(self) -> bool:
        return self.error is not None or bool(self.chunks and self.chunks[-1].usage)

    def step(self) -> None:
        """Waits for one delivery."""
        delivery = self.inbox.get(timeout=60)
        if isinstance(delivery, EngineError):
            self.error = delivery
        else:
            self.chunks.append(delivery)

    def until(self, condition: Callable[["Pending"], bool]) -> "Pending":
        while not self.is_over and not condition(self):
            self.step()
        return self

    def finish(self) -> "Pending":
        return self.until(lambda _: False)

    def tokens(self, index: int = 0) -> list[int]:
        return [token for chunk in self.chunks if chunk.index == index for token in chunk.token_ids]

    def text(self, index: int = 0) -> str:
        return "".join(chunk.text for chunk in self.chunks if chunk.index == index)

    def reason(self, index: int = 0) -> str | None:
        return next((c.finish_reason for c in self.chunks if c.index == index and c.finish_reason), None)

    @property
    def usage(self) -> Usage:
        usage = self.chunks[-1].usage
        assert usage is not None
        return usage


def chat(loaded: LoadedModel, question: str) -> list[int]:
    encoder = loaded.encoder
    turns = [{"role": "user", "content": question}]
    text = encoder.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(encoder.encode(text, add_special_tokens=False))


def prompts(loaded: LoadedModel) -> list[list[int]]:
    """Short and long ones, one of them longer than what is worked on in one piece."""
    questions = [chat(loaded, question) for question in CHATS]
    long = (questions[0] * 100)[: PREFILL_TOKENS + 200]
    return [questions[0], long, questions[1], questions[0] * 5, questions[2], questions[3] * 3, questions[3]]


def without_end(loaded: LoadedModel) -> SamplingParameters:
    """Greedy sampling that never ends by itself."""
    return replace(GREEDY, logit_bias=dict.fromkeys(loaded.end_token_ids, -1000000000.0))


@pytest.fixture
def small_engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    """One row, and room for one request that waits."""
    engine = TransformersEngine(loaded, [], max_batch=1, max_queue=1)
    yield engine
    engine.close()


# --- The same tokens --------------------------------------------------------------------------------------------------


def test_alone_it_generates_what_generate_does(
    engine: TransformersEngine, loaded: LoadedModel, generate: Generate
) -> None:
    for question, answer in CHATS.items():
        prompt = chat(loaded, question)
        pending = Pending(engine, GenerationRequest(prompt, 100, GREEDY)).finish()
        assert pending.tokens() == generate(prompt, 100)
        assert (pending.text(), pending.reason()) == (answer, "stop")


def test_together_each_generates_what_it_does_alone(
    engine: TransformersEngine, loaded: LoadedModel, generate: Generate
) -> None:
    pending = [Pending(engine, GenerationRequest(prompt, 60, GREEDY)) for prompt in prompts(loaded)]
    for one in pending:
        assert one.finish().tokens() == generate(list(one.request.prompt_token_ids), 60)


def test_late_joiners_disturb_nobody(engine: TransformersEngine, loaded: LoadedModel, generate: Generate) -> None:
    started: list[Pending] = []
    for prompt in prompts(loaded):
        started.append(Pending(engine, GenerationRequest(prompt, 60, GREEDY)))
        started[-1].until(lambda one: len(one.tokens()) >= 4)
    for one in started:
        assert one.finish().tokens() == generate(list(one.request.prompt_token_ids), 60)


def test_the_window_grows_while_rows_come_and_go(engine: TransformersEngine, loaded: LoadedModel) -> None:
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


def test_a_seed_gives_the_same_text_alone_and_in_company(engine: TransformersEngine, loaded: LoadedModel) -> None:
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


def test_a_stop_string_ends_the_text_before_it(engine: TransformersEngine, loaded: LoadedModel) -> None:
    request = GenerationRequest(chat(loaded, "What is the anchor for?"), 60, GREEDY, stop=["the water", "ship w"])
    pending = Pending(engine, request).finish()
    assert (pending.text(), pending.reason()) == ("Ahoy! It holds the ", "stop")
    assert not any("ship" in chunk.text for chunk in pending.chunks)


def test_max_tokens_ends_it_and_is_counted(engine: TransformersEngine, loaded: LoadedModel) -> None:
    prompt = chat(loaded, "Count.")
    pending = Pending(engine, GenerationRequest(prompt, 5, GREEDY)).finish()
    assert pending.reason() == "length"
    assert len(pending.tokens()) == 5
    assert (pending.usage.prompt_tokens, pending.usage.completion_tokens) == (len(prompt), 5)


def test_the_context_ends_it(engine: TransformersEngine, loaded: LoadedModel) -> None:
    context = loaded.max_model_length
    prompt = (chat(loaded, "Count.") * 200)[: context - 3]
    pending = Pending(engine, GenerationRequest(prompt, None, without_end(loaded))).finish()
    assert (len(pending.tokens()), pending.reason()) == (3, "length")


def test_log_probabilities_are_the_models_own(engine: TransformersEngine, loaded: LoadedModel) -> None:
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


def test_stopped_text_takes_its_log_probabilities_along(engine: TransformersEngine, loaded: LoadedModel) -> None:
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
    engine: TransformersEngine, change: dict[str, Any], error: type[EngineError], parameter: str | None
) -> None:
    with pytest.raises(error) as caught:
        engine.submit(replace(GenerationRequest([5, 6]), **change), lambda _: None)
    assert caught.value.parameter == parameter
    assert engine.stats().requests == 0


def test_a_full_queue_refuses_and_takes_again(small_engine: TransformersEngine, loaded: LoadedModel) -> None:
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


def test_cancelling_frees_the_row(small_engine: TransformersEngine, loaded: LoadedModel) -> None:
    endless = GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded))
    pending = Pending(small_engine, endless).until(lambda one: bool(one.chunks))
    small_engine.cancel(pending.number)
    pending.finish()
    assert pending.reason() == "cancelled"
    assert len(pending.tokens()) < 900
    wait_for(lambda: True if small_engine.stats().running == 0 else None, "the row to be free")
    small_engine.cancel(pending.number)
    small_engine.cancel(12_345)


def test_a_request_that_waits_can_be_cancelled(small_engine: TransformersEngine, loaded: LoadedModel) -> None:
    endless = GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded))
    Pending(small_engine, endless).until(lambda one: bool(one.chunks))
    waiting = Pending(small_engine, endless)
    small_engine.cancel(waiting.number)
    assert (waiting.finish().reason(), waiting.tokens()) == ("cancelled", [])
    assert small_engine.stats().waiting == 0


def test_whoever_stops_listening_cancels(small_engine: TransformersEngine, loaded: LoadedModel) -> None:
    chunks = stream(small_engine, GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded)))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    wait_for(lambda: True if small_engine.stats().running == 0 else None, "the row to be free")


def test_closing_cancels_everything(loaded: LoadedModel) -> None:
    engine = TransformersEngine(loaded, [], max_batch=1, max_queue=4)
    endless = GenerationRequest(chat(loaded, "Count."), 1000, without_end(loaded))
    running, waiting = Pending(engine, endless).until(lambda one: bool(one.chunks)), Pending(engine, endless)
    engine.close()
    assert (running.finish().reason(), waiting.finish().reason()) == ("cancelled", "cancelled")
    with pytest.raises(EngineClosedError):
        engine.submit(endless, lambda _: None)
    assert not any(thread.name == "engine" and thread is engine._thread for thread in threading.enumerate())


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_out_of_memory_costs_the_youngest_alone(
    engine: TransformersEngine, loaded: LoadedModel, generate: Generate, monkeypatch: pytest.MonkeyPatch
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
    older = Pending(engine, GenerationRequest(chat(loaded, "Count."), 60, GREEDY)).until(lambda one: bool(one.chunks))
    younger = Pending(engine, GenerationRequest(chat(loaded, "Say it in pictures."), 60, GREEDY)).finish()
    assert isinstance(younger.error, OutOfMemoryError)
    assert older.finish().tokens() == generate(list(older.request.prompt_token_ids), 60)


def test_prompts_that_do_not_fit_together_are_tried_one_by_one(
    engine: TransformersEngine, loaded: LoadedModel, generate: Generate, monkeypatch: pytest.MonkeyPatch
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
    first = Pending(engine, GenerationRequest(prompts(loaded)[1], 30, GREEDY))
    others = [Pending(engine, GenerationRequest(chat(loaded, question), 60, GREEDY)) for question in list(CHATS)[:3]]
    for one in [first, *others]:
        assert one.finish().tokens() == generate(list(one.request.prompt_token_ids), one.request.max_tokens or 0)
    assert refusals


def test_a_broken_step_fails_those_in_it_and_the_engine_lives(
    engine: TransformersEngine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
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
    engine: TransformersEngine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
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


def engine_with(loaded: LoadedModel, factories: Sequence[ProcessorFactory]) -> TransformersEngine:
    return TransformersEngine(loaded, factories, max_batch=2, max_queue=8)


def test_a_profile_shapes_and_ends_an_answer(loaded: LoadedModel) -> None:
    engine = engine_with(loaded, [Parrot])
    try:
        request = GenerationRequest(chat(loaded, "Count."), 60, GREEDY)
        shaped = Pending(engine, request)
        free = Pending(engine, replace(request, apply_processors=False))
        assert (shaped.finish().text(), shaped.reason()) == ("sail sail sail ", "stop")
        assert free.finish().text() == CHATS["Count."]
    finally:
        engine.close()


def test_a_broken_processor_fails_its_own_request(loaded: LoadedModel) -> None:
    engine = engine_with(loaded, [Grumbler])
    try:
        request = GenerationRequest(chat(loaded, "Count."), 60, GREEDY)
        free, broken = Pending(engine, replace(request, apply_processors=False)), Pending(engine, request)
        assert "no more of this" in str(broken.finish().error)
        assert free.finish().text() == CHATS["Count."]
    finally:
        engine.close()
