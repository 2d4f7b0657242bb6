"""Hypothesis against what reads foreign bytes: an answer or the reader's own error, and nothing else.

Short by default; `bin/test --fuzz` gives each reader thousands of tries and others each time.
"""

import gzip
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.events import BODIES, MalformedEventError, decode_event
from training.data.records import UnreadableSourceError
from training.data.sources import opened, recognise
from training.data.unpacking import Limits

IS_LONG = os.environ.get("PILOTHOUSE_FUZZ") == "yes"
short = settings(max_examples=10_000 if IS_LONG else 150, deadline=None, database=None, derandomize=not IS_LONG)
LIMITS = Limits(most_bytes=1 << 20)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["NaN", "-Infinity"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    ["values", "step", "loss", "eval_loss", "pid", "path", "done", "total", "text", "code", "port"]
)
near_events = st.fixed_dictionaries({"seq": values, "time": values, "kind": st.sampled_from(sorted(BODIES))}).flatmap(
    lambda head: st.dictionaries(fields, values, max_size=5).map(lambda body: {**head, **body})
)
rows = st.lists(st.dictionaries(st.sampled_from(["messages", "text", "prompt", "completion"]), values), max_size=4)


def read_event(line: str | bytes) -> None:
    """Reads a line, or hears that it is none."""
    with suppress(MalformedEventError):
        decode_event(line)


@short
@given(near_events)
def test_what_is_nearly_an_event(event: dict[str, Any]) -> None:
    read_event(json.dumps(event))


@short
@given(st.binary(max_size=200))
def test_what_is_no_event(line: bytes) -> None:
    read_event(line)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 200_000,
        '{"seq": Infinity, "time": 1, "kind": "started", "pid": 1}',
        '{"seq": 1, "time": 1' + "0" * 400 + ', "kind": "started", "pid": 1}',
    ],
    ids=["deep", "endless number", "large number"],
)
def test_an_event_that_would_break_its_reader_is_malformed(line: str) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(line)


def read_file(data: bytes, name: str) -> None:
    """Reads all rows of a file, or hears why it can't be read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "source.bin")
        path.write_bytes(data)
        with suppress(UnreadableSourceError), opened(recognise(path, name, LIMITS), LIMITS, 1 << 16) as reader:
            for _ in reader.records():
                pass


names = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.txt", "a.jsonl.gz"])
beginnings = st.sampled_from(
    [b"", b"[", b'{"messages": [', b"PAR1", b"\x1f\x8b\x08", b"prompt,completion\n", b"\xef\xbb\xbf"]
)


@short
@given(beginnings, st.binary(max_size=300), names)
def test_any_bytes_as_a_dataset(head: bytes, rest: bytes, name: str) -> None:
    read_file(head + rest, name)


@short
@given(rows, names, st.booleans(), st.booleans(), st.data())
def test_rows_of_any_shape_whole_and_cut(
    rows: list[dict[str, Any]], name: str, is_array: bool, is_packed: bool, data: st.DataObject
) -> None:
    text = json.dumps(rows) if is_array else "\n".join(json.dumps(row) for row in rows)
    whole = gzip.compress(text.encode()) if is_packed else text.encode()
    read_file(whole[: data.draw(st.integers(0, len(whole)))], name)
