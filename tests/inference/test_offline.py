"""Many requests without HTTP: in order, failures apart, with fewer at once where memory runs out."""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from inference.engine.base import (
    Deliver,
    Engine,
    EngineStats,
    GenerationRequest,
    InvalidRequestError,
    OutOfMemoryError,
    QueueFullError,
    Result,
)
from inference.engine.chat import ChatPrompts
from inference.engine.loading import LoadedModel
from inference.engine.transformers import TransformersEngine
from inference.offline import GREEDY, OfflineModel, answered
from inference.progress import RowProgress
from monitoring.events import EventWriter, Progress, decode_event
from tests.inference.models import CHATS
from tests.inference.serving import wait_for
from training.profiles.plain import PlainProfile


def chat(loaded: LoadedModel, engine: Engine, question: str) -> GenerationRequest:
    model = OfflineModel(loaded, engine, ChatPrompts(loaded.encoder), PlainProfile(), "", 4)
    return model.request([{"role": "user", "content": question}], max_tokens=200)


def test_answers_come_in_order_however_long_each_takes(loaded: LoadedModel, engine: TransformersEngine) -> None:
    questions = [*CHATS, *reversed(CHATS)]
    found = list(answered(engine, (chat(loaded, engine, question) for question in questions), in_flight=3))
    assert [answer.text for answer in found] == [CHATS[question] for question in questions]
    assert {answer.finish_reasons for answer in found} == {("stop",)}
    assert all(answer.usage is not None and answer.error is None for answer in found)


def test_what_fails_fails_alone(loaded: LoadedModel, engine: TransformersEngine) -> None:
    good = chat(loaded, engine, "Count.")
    refused = InvalidRequestError("The template refuses it.")
    too_long = replace(good, prompt_token_ids=[1] * engine.max_model_length)
    found = list(answered(engine, [refused, good, too_long, good], in_flight=2))
    assert [answer.text for answer in found] == ["", CHATS["Count."], "", CHATS["Count."]]
    assert found[0].error is refused
    assert found[2].error is not None
    assert found[2].error.code == "context_length_exceeded"


def test_what_depends_on_an_answer_is_asked_once_that_is_given(loaded: LoadedModel, engine: TransformersEngine) -> None:
    given: list[str] = []

    def requests() -> Iterator[GenerationRequest | None]:
        yield chat(loaded, engine, "Count.")
        while CHATS["Count."] not in given:
            yield None
        yield chat(loaded, engine, "Say it in pictures.")

    for answer in answered(engine, requests(), in_flight=4):
        given.append(answer.text)
    assert given == [CHATS["Count."], CHATS["Say it in pictures."]]


def test_who_waits_for_an_answer_that_nobody_gives_is_at_the_end(engine: TransformersEngine) -> None:
    assert list(answered(engine, itertools.repeat(None), in_flight=4)) == []


class FullDevice:
    """An engine whose device holds one row until it `recovers`: it refuses a second one as a device without memory
    does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.recovers = False
        self.most = 0
        self.refusals = 0

    max_model_length = 1024

    def submit(self, request: GenerationRequest, deliver: Deliver) -> int:
        stats = self.stats()
        self.most = max(self.most, stats.running + stats.waiting + 1)
        if stats.running + stats.waiting and not self.recovers:
            self.refusals += 1
            deliver(OutOfMemoryError("full"))
            return 0
        return self._engine.submit(request, deliver)

    def compute(self, work: Callable[[], Result]) -> Result:
        return self._engine.compute(work)

    def prepare(self, constraint: object) -> None:
        """No request here has one."""

    def cancel(self, number: int) -> None:
        self._engine.cancel(number)

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def close(self) -> None:
        self._engine.close()


def test_where_memory_runs_out_fewer_are_tried_at_once(loaded: LoadedModel, engine: TransformersEngine) -> None:
    device = FullDevice(engine)
    found = list(answered(device, [chat(loaded, engine, question) for question in CHATS], in_flight=4))
    assert [answer.text for answer in found] == list(CHATS.values())
    assert device.refusals > 0


def test_once_memory_suffices_again_as_many_run_as_before(loaded: LoadedModel, engine: TransformersEngine) -> None:
    device = FullDevice(engine)

    def requests() -> Iterator[GenerationRequest]:
        for number in range(24):
            if number == 8:
                device.recovers, device.most = True, 0
            yield replace(chat(loaded, engine, "Count."), max_tokens=2)

    found = list(answered(device, requests(), in_flight=4))
    assert [answer.error for answer in found] == [None] * 24
    assert device.refusals > 0
    assert device.most == 4


class FullQueue(FullDevice):
    """An engine whose queue others have filled."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.has_room = threading.Event()

    def submit(self, request: GenerationRequest, deliver: Deliver) -> int:
        if not self.has_room.is_set():
            self.refusals += 1
            raise QueueFullError("full")
        return self._engine.submit(request, deliver)


def test_a_queue_that_others_fill_is_waited_for_without_haste(loaded: LoadedModel, engine: TransformersEngine) -> None:
    device = FullQueue(engine)
    threading.Timer(0.2, device.has_room.set).start()
    found = list(answered(device, [chat(loaded, engine, question) for question in CHATS], in_flight=4))
    assert [answer.text for answer in found] == list(CHATS.values())
    assert 0 < device.refusals < 100


def test_who_stops_listening_leaves_nothing_running(loaded: LoadedModel, engine: TransformersEngine) -> None:
    endless = replace(chat(loaded, engine, "Count."), max_tokens=900, sampling=replace(GREEDY, logit_bias={2: -100.0}))
    stream = answered(engine, [chat(loaded, engine, "Count."), endless, endless], in_flight=3)
    assert next(stream).text == CHATS["Count."]
    stream.close()

    def idle() -> bool | None:
        stats = engine.stats()
        return True if stats.running + stats.waiting == 0 else None

    wait_for(idle, "the engine to be idle")


def test_progress_tells_the_first_and_the_last_row(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl") as events:
        progress = RowProgress(events, 5, done=2, note="answering")
        for _ in range(3):
            progress.add()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    told = [body for body in (decode_event(line).body for line in lines) if isinstance(body, Progress)]
    assert (told[0].done, told[-1].done, told[-1].total, told[-1].unit) == (2, 5, 5, "rows")
    assert told[-1].note.startswith("answering, ")
