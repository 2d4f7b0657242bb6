"""Whose prompt is next: short ones don't wait for long ones, and long ones don't wait for ever."""

import pytest

from inference.engine.base import GenerationRequest, SamplingParameters
from inference.engine.choice import Ticket
from inference.engine.loading import LoadedModel
from inference.engine.rolling import turn
from tests.inference.conftest import MakeEngine
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Pending, chat, without_end


def test_a_short_prompt_goes_before_a_long_one(make_engine: MakeEngine, loaded: LoadedModel) -> None:
    engine = make_engine(max_batch=1, max_queue=2)
    short = chat(loaded, next(iter(CHATS)))
    busy = Pending(engine, GenerationRequest(short, 200, without_end(loaded))).until(lambda told: bool(told.chunks))
    long = Pending(engine, GenerationRequest((short * 100)[:900], 1, GREEDY))
    late = Pending(engine, GenerationRequest(short, 1, GREEDY))
    engine.cancel(busy.number)
    assert late.finish().usage.queue_seconds < long.finish().usage.queue_seconds


@pytest.mark.parametrize(
    ("older", "later", "seconds", "is_overtaken"),
    [(900, 20, 1.0, True), (900, 20, 2.0, False), (20, 20, 0.1, False), (20, 900, 0.0, False)],
)
def test_a_long_prompt_does_not_wait_for_ever(older: int, later: int, seconds: float, is_overtaken: bool) -> None:
    def waiting(tokens: int, since: float) -> Ticket:
        return Ticket(1, GenerationRequest([1] * tokens, 1, SamplingParameters()), print, 1, submitted_at=since)

    assert (turn(waiting(later, 100.0 + seconds)) < turn(waiting(older, 100.0))) == is_overtaken
