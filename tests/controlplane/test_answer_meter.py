"""What passes through is measured: usage is read, hidden where it wasn't asked for, guessed where it never comes."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.services import log_histogram
from controlplane.services.answer_meter import StreamMeter, of_whole, with_usage

patiently = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "x", **fields}, separators=(",", ":")).encode() + b"\n\n"


def choice(text: str, reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]


STREAM = (
    event(choices=choice(""), usage=None)
    + event(choices=choice('she said ,"usage":null and "usage":{'), usage=None)
    + event(choices=choice("ä", "stop"), usage=None)
    + event(choices=[], usage=USAGE)
    + b"data: [DONE]\n\n"
)
HIDDEN = (
    event(choices=choice(""))
    + event(choices=choice('she said ,"usage":null and "usage":{'))
    + event(choices=choice("ä", "stop"))
    + b"data: [DONE]\n\n"
)


@patiently
@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=6), st.booleans())
def test_wherever_the_bytes_are_cut_the_client_sees_the_same(cuts: list[int], shows_usage: bool) -> None:
    meter = StreamMeter(shows_usage=shows_usage, prompt_tokens=99, began=0.0)
    edges = [0, *sorted(cuts), len(STREAM)]
    passed = b"".join(meter.feed(STREAM[start:end]) for start, end in pairwise(edges))
    assert passed + meter.rest() == (STREAM if shows_usage else HIDDEN)
    measured = meter.measured()
    assert (measured.prompt_tokens, measured.completion_tokens, measured.is_whole) == (5, 3, True)


def test_a_stream_that_is_left_early_is_counted_by_its_events() -> None:
    meter = StreamMeter(shows_usage=False, prompt_tokens=12, began=0.0)
    for text in ("", "a", "b"):
        meter.feed(event(choices=choice(text), usage=None))
    measured = meter.measured()
    assert (measured.prompt_tokens, measured.completion_tokens, measured.is_whole) == (12, 2, False)
    assert measured.first_token_seconds is not None


def test_usage_beside_a_choice_stays_with_it() -> None:
    meter = StreamMeter(shows_usage=False, prompt_tokens=0, began=0.0)
    last = event(choices=choice("x", "stop"), usage=USAGE)  # as some engines end
    assert meter.feed(last) == last
    assert meter.measured().completion_tokens == 3


@pytest.mark.parametrize("content", [b"", b"[]", b'{"usage": null}', b'{"usage": {"prompt_tokens": 1}}', b"\xff"])
def test_an_answer_that_says_nothing_of_its_usage_is_not_guessed_at(content: bytes) -> None:
    assert of_whole(content) is None


def test_a_whole_answer_brings_its_usage_and_its_times() -> None:
    timing = {"time_to_first_token_ms": 250, "tokens_per_second": 12.5}
    measured = of_whole(json.dumps({"usage": USAGE, "pilothouse": timing}).encode())
    assert measured is not None
    assert (measured.tokens, measured.first_token_seconds, measured.tokens_per_second) == (8, 0.25, 12.5)


def test_only_streams_are_asked_for_usage_and_wrong_options_are_left_to_the_engine() -> None:
    assert with_usage({"stream": True})["stream_options"] == {"include_usage": True}
    kept = with_usage({"stream": True, "stream_options": {"include_usage": False, "other": 1}})
    assert kept["stream_options"] == {"include_usage": True, "other": 1}
    for body in ({"stream": False}, {"stream": True, "stream_options": "yes"}):
        assert with_usage(body) == body


@patiently
@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_right_to_half_a_bin(values: list[float], share: float) -> None:
    halves = [log_histogram.added({}, values[::2]), log_histogram.added({}, values[1::2])]
    found = log_histogram.quantile(log_histogram.merged(halves), share)
    assert found is not None
    ranked = sorted(values)
    exact = next(value for count, value in enumerate(ranked, 1) if count >= share * len(ranked))
    assert exact / 1.05 <= found <= exact * 1.05


def test_nothing_has_no_quantile() -> None:
    assert log_histogram.quantile({}, 0.5) is None
