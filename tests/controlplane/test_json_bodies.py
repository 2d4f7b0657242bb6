"""Bodies are read strictly, name the place of a fault, and cost no more than they are large."""

import json
import tracemalloc

import pytest

from controlplane.api.json_bodies import LONGEST_PATH, read_json
from controlplane.errors import InvalidInputError


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"a": [0, NaN]}', "a.1"),
        (b'{"a": [0, 1e999]}', "a.1"),
        (b'{"a": {"b": "x\\u0000"}}', "a.b"),
        (b'{"a": [{"b\\ud800": 1}]}', "a.0"),
        (b"-Infinity", ""),
    ],
)
def test_what_cannot_be_kept_is_named_by_its_place(raw: bytes, path: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_json(raw)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_all_else_is_read_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "\n é 😀"], "b": {"": [[]]}}
    assert read_json(json.dumps(value).encode()) == value


def test_a_long_name_is_not_spelled_for_every_value_below_it() -> None:
    raw = json.dumps({"k" * 100_000: [[0]] * 1_000, "z": "\u0000"}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError):
            read_json(raw)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(raw)
    finally:
        tracemalloc.stop()


def test_the_place_of_a_fault_is_said_in_short() -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_json(b'{"' + b"k" * 100_000 + b'": [NaN]}')
    assert len(caught.value.faults[0].path) <= LONGEST_PATH + len("..0")
