"""Tries under way: how many begin before what became of them is told."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from inference.datagen.asking import AT_ONCE, Asking
from inference.datagen.options import GenerationOptions
from inference.datagen.tries import Drop, Try

TRIES = 3 * AT_ONCE + 7


def test_tries_that_end_at_once_are_told_of_before_all_have_begun() -> None:
    begun = 0

    def tries() -> Iterator[Try]:
        nonlocal begun
        for _ in range(TRIES):
            begun += 1
            yield Drop("unreadable")

    unasked: Any = SimpleNamespace(engine=None, in_flight=4)
    options = GenerationOptions(num_examples=TRIES)
    outcomes = Asking(unasked, tries(), 5, options=options, known=None, wanted=lambda: 9).outcomes()
    assert next(outcomes).number == 5
    assert begun == AT_ONCE
    assert [outcome.number for outcome in outcomes] == list(range(6, 5 + TRIES))
