"""Calls with a deadline: answers, errors, lateness, and coming back."""

import threading
import time

import pytest

from monitoring.deadline import DeadlineCaller, LateError
from tests.monitoring.factories import wait_for


def test_answers_and_errors_come_back_to_the_caller() -> None:
    caller = DeadlineCaller("test", 5.0)
    assert caller.call(lambda: 7) == 7
    assert caller.call(lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        caller.call(lambda: 1 // 0)
    caller.close()


def test_what_hangs_costs_one_deadline_and_is_forgiven_when_it_ends() -> None:
    caller, go = DeadlineCaller("test", 0.1), threading.Event()
    with pytest.raises(LateError):
        caller.call(lambda: go.wait(10))
    before = time.monotonic()
    with pytest.raises(LateError):
        caller.call(lambda: 7)
    assert time.monotonic() - before < 0.1
    go.set()

    def answers() -> bool:
        try:
            return caller.call(lambda: True)
        except LateError:
            return False

    assert wait_for(answers)
    caller.close()


def test_posted_work_is_done_in_turn_and_may_fail() -> None:
    caller, done = DeadlineCaller("test", 5.0), list[int]()
    caller.post(lambda: done.append(1 // 0))
    caller.post(lambda: done.append(1))
    assert caller.call(lambda: done) == [1]
    caller.close()
