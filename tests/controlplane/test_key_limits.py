"""Limits of keys: exact sliding windows, what a request counts with before its answer, and what the client is told."""

from typing import Any

import pytest

from controlplane.errors import ForbiddenError, RateLimitedError
from controlplane.models.access import Actor, KeyLimits, Role
from controlplane.services.key_limits import (
    OPEN_RETRY_SECONDS,
    UNSAID_COMPLETION_TOKENS,
    UNSAID_TOKENS,
    Gatekeeper,
    check_model,
    most_tokens,
)


def key(**limits: Any) -> Actor:
    return Actor("key k", Role.USE, key_id=1, limits=KeyLimits(**limits))


def test_the_window_slides_by_the_moment() -> None:
    gate, actor = Gatekeeper(), key(requests_per_minute=2)
    assert gate.admit(actor, {}, 0.0).headers["x-ratelimit-remaining-requests"] == "1"
    headers = gate.admit(actor, {}, 40.0).headers
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-reset-requests"]) == ("0", "60.000s")
    with pytest.raises(RateLimitedError) as refused:
        gate.admit(actor, {}, 59.5)
    assert (refused.value.retry_after_seconds, refused.value.what) == (1, "requests")
    gate.admit(actor, {}, 60.0)  # the first has left the window, the second has not
    with pytest.raises(RateLimitedError) as refused:
        gate.admit(actor, {}, 61.0)
    assert refused.value.retry_after_seconds == 39


def test_a_refused_request_counts_for_nothing() -> None:
    gate, actor = Gatekeeper(), key(requests_per_minute=1)
    gate.admit(actor, {}, 0.0)
    for moment in (1.0, 2.0, 3.0):
        with pytest.raises(RateLimitedError):
            gate.admit(actor, {}, moment)
    gate.admit(actor, {}, 60.0)


def test_tokens_count_with_the_most_until_the_answer_tells() -> None:
    gate, actor = Gatekeeper(), key(tokens_per_minute=100)
    admitted = gate.admit(actor, {"max_tokens": 80}, 0.0)
    with pytest.raises(RateLimitedError) as refused:
        gate.admit(actor, {"max_tokens": 30}, 1.0)
    assert (refused.value.what, refused.value.headers["x-ratelimit-remaining-tokens"]) == ("tokens", "20")
    admitted.settle(10, 1.0)
    assert gate.admit(actor, {"max_tokens": 30}, 1.0).headers["x-ratelimit-remaining-tokens"] == "60"


def test_an_answer_that_takes_minutes_counts_while_it_is_given_and_a_minute_longer() -> None:
    gate, actor = Gatekeeper(), key(tokens_per_minute=100)
    admitted = gate.admit(actor, {"max_tokens": 80}, 0.0)
    with pytest.raises(RateLimitedError) as refused:
        gate.admit(actor, {"max_tokens": 30}, 200.0)
    assert refused.value.retry_after_seconds == OPEN_RETRY_SECONDS
    admitted.settle(90, 200.0)
    admitted.settle(0, 201.0)
    with pytest.raises(RateLimitedError) as refused:
        gate.admit(actor, {"max_tokens": 30}, 210.0)
    assert refused.value.retry_after_seconds == 50
    gate.admit(actor, {"max_tokens": 30}, 260.0)


def test_requests_without_a_limit_of_their_own_do_not_come_all_at_once() -> None:
    gate, actor = Gatekeeper(), key(tokens_per_minute=2 * UNSAID_TOKENS + 10)
    for _ in range(2):
        gate.admit(actor, {"messages": []}, 0.0)
    with pytest.raises(RateLimitedError):
        gate.admit(actor, {"messages": []}, 0.0)


def test_a_request_larger_than_the_limit_waits_for_an_empty_minute() -> None:
    gate, actor = Gatekeeper(), key(tokens_per_minute=100)
    gate.admit(actor, {"max_tokens": 1}, 0.0).settle(1, 0.0)
    with pytest.raises(RateLimitedError) as refused:
        gate.admit(actor, {"max_tokens": 5000}, 10.0)
    assert refused.value.retry_after_seconds == 50
    gate.admit(actor, {"max_tokens": 5000}, 60.0)


def test_whoever_has_no_limits_is_not_counted() -> None:
    gate = Gatekeeper()
    for actor in (None, Actor("somebody", Role.USE, user_id=1), key()):
        assert [gate.admit(actor, {}, 0.0).headers for _ in range(50)] == [{}] * 50


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, UNSAID_TOKENS),
        ({"prompt": "x" * 398}, 100 + UNSAID_COMPLETION_TOKENS),
        ({"prompt": "", "max_tokens": 7, "n": 3}, 21),
        ({"max_completion_tokens": 9, "max_tokens": 5}, 9),
        ({"max_tokens": "many", "n": [2]}, UNSAID_TOKENS),
        ({"max_tokens": -4}, UNSAID_TOKENS),
    ],
)
def test_what_a_request_may_take_at_most(body: dict[str, Any], tokens: int) -> None:
    assert most_tokens(body) == tokens


def test_a_key_is_held_to_its_models() -> None:
    check_model(key(models=("a", "b")), "b")
    check_model(key(), "anything")
    with pytest.raises(ForbiddenError, match="may not use the model c: it may use a, b"):
        check_model(key(models=("a", "b")), "c")


def test_what_a_key_takes_at_another_web_process_counts_here() -> None:
    here, there, actor = Gatekeeper(), Gatekeeper(), key(requests_per_minute=3, tokens_per_minute=100)
    admitted = there.admit(actor, {"max_tokens": 60})
    here.hear([there.told()])
    headers = here.admit(actor, {"max_tokens": 10}).headers
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-remaining-tokens"] == "30"
    admitted.settle(5)
    here.hear([there.told()])
    assert here.admit(actor, {"max_tokens": 10}).headers["x-ratelimit-remaining-tokens"] == "75"
    with pytest.raises(RateLimitedError) as refused:
        here.admit(actor, {"max_tokens": 10})
    assert refused.value.what == "requests"


def test_what_was_taken_elsewhere_leaves_the_window_too() -> None:
    here, actor = Gatekeeper(), key(requests_per_minute=1)
    here.hear([{"1": [[[59, 1]], []]}])
    with pytest.raises(RateLimitedError) as refused:
        here.admit(actor, {})
    assert refused.value.retry_after_seconds <= 2
    here.hear([])  # the other process has ended
    here.admit(actor, {})
