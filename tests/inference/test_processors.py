"""The gate to the profiles' processors."""

import pytest

from inference.processors import UnknownProcessorsError, load_processors


def test_plain_and_none_change_nothing() -> None:
    assert load_processors("plain") == []
    assert load_processors(None) == []


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownProcessorsError, match=r"'semaphore'.*plain"):
        load_processors("semaphore")


def test_a_name_is_not_a_way_to_any_module() -> None:
    with pytest.raises(UnknownProcessorsError):
        load_processors("gate")
