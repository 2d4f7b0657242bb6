"""Which rows are taken, what becomes of them, and what is said about the others."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.specs import (
    FAULT_CODES,
    SPECS,
    RowFaultError,
    SpecName,
    check_spec,
    has_answer_markers,
    is_chat,
    parse_line,
    parse_row,
    texts_of,
)

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
        ({"messages": [{**USER, "name": "Eve"}, ASSISTANT], "id": 7}, [USER, ASSISTANT]),
        ({"prompt": "Hi", "completion": "Hello"}, [USER, ASSISTANT]),
        ({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
        ({"instruction": "Hi", "output": "Hello"}, [USER, ASSISTANT]),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, [USER, ASSISTANT]),
        (
            {"instruction": "Add", "input": "1 2", "output": "Hello"},
            [{"role": "user", "content": "Add\n\n1 2"}, ASSISTANT],
        ),
        ({"instruction": "Hi", "system": "Be kind.", "output": "Hello"}, [SYSTEM, USER, ASSISTANT]),
    ],
)
def test_every_chat_shape_becomes_messages(row: dict[str, Any], expected: list[dict[str, str]]) -> None:
    assert parse_row(row).example == {"messages": expected}


def test_text_stays_raw() -> None:
    assert parse_line(b'{"text": "Once upon a time", "source": "book"}').example == {"text": "Once upon a time"}


def test_keys_beyond_the_shape_are_named() -> None:
    assert parse_row({"text": "x", "source": "book", "page": 3}).dropped_keys == ("source", "page")


@pytest.mark.parametrize(
    ("row", "is_mapped"),
    [
        ({"messages": [USER, ASSISTANT]}, False),
        ({"messages": [USER, ASSISTANT], "id": 1}, True),
        ({"messages": [{**USER, "name": "Eve"}, ASSISTANT]}, True),
        ({"prompt": "Hi", "completion": "Hello"}, True),
    ],
)
def test_a_row_says_whether_it_was_changed(row: dict[str, Any], is_mapped: bool) -> None:
    assert parse_row(row).is_mapped is is_mapped


FAULTY_LINES: list[tuple[str, bytes]] = [
    ("bad_json", b'{"text": "x"'),
    ("bad_json", b"{'text': 'x'}"),
    ("bad_json", b"[" * 100_000),
    ("invalid_utf8", b'{"text": "caf\xe9"}'),
    ("invalid_utf8", b'{"text": "half a pair: \\ud83d"}'),
    ("not_an_object", b'["text"]'),
    ("not_an_object", b"null"),
    ("unknown_shape", b"{}"),
    ("unknown_shape", b'{"question": "Hi", "answer": "Hello"}'),
    ("unknown_shape", b'{"prompt": "Hi", "completion": null}'),
    ("bad_messages", b'{"messages": "Hi"}'),
    ("bad_messages", b'{"messages": []}'),
    ("bad_messages", b'{"messages": ["Hi"]}'),
    ("missing_role", b'{"messages": [{"content": "Hi"}]}'),
    ("bad_role", b'{"messages": [{"role": "bot", "content": "Hi"}]}'),
    ("bad_role", b'{"messages": [{"role": ["user"], "content": "Hi"}]}'),
    ("bad_content", b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}'),
    ("bad_content", b'{"prompt": "Hi", "completion": 4}'),
    ("bad_content", b'{"instruction": "Hi", "input": 4, "output": "Hello"}'),
    ("empty_content", b'{"messages": [{"role": "user", "content": " \\n"}]}'),
    ("empty_content", b'{"text": ""}'),
    ("only_system", json.dumps({"messages": [SYSTEM]}).encode()),
    ("no_user", json.dumps({"messages": [SYSTEM, ASSISTANT]}).encode()),
    ("no_assistant", json.dumps({"messages": [SYSTEM, USER]}).encode()),
    ("example_too_long", json.dumps({"text": "a " * 1_000_001}).encode()),
    ("wrong_order", json.dumps({"messages": [USER, SYSTEM, ASSISTANT]}).encode()),
    ("wrong_order", json.dumps({"messages": [ASSISTANT, USER, ASSISTANT]}).encode()),
]


OF_FILES = {"line_too_long", "bad_cells", "other_spec", "bad_markers"}
"""Faults that a row by itself can't have."""


@pytest.mark.parametrize(("code", "line"), FAULTY_LINES)
def test_a_faulty_row_has_a_code_and_a_sentence(code: str, line: bytes) -> None:
    with pytest.raises(RowFaultError) as fault:
        parse_line(line)
    assert fault.value.code == code
    assert fault.value.message[0].isupper() or fault.value.message[0] == "`"
    assert fault.value.message.endswith(".")


def test_every_code_has_a_case() -> None:
    assert {code for code, _ in FAULTY_LINES} | OF_FILES == set(FAULT_CODES)


@pytest.mark.parametrize(
    ("row", "spec"),
    [
        ({"messages": [USER, ASSISTANT]}, "chat_sft_v1"),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "chat_sft_v1"),
        ({"instruction": "Hi", "output": "Hello"}, "chat_sft_v1"),
        ({"prompt": "Hi", "completion": "Hello"}, "completion_v1"),
        ({"text": "Hi"}, "completion_v1"),
    ],
)
def test_a_row_follows_one_spec(row: dict[str, Any], spec: SpecName) -> None:
    parsed = parse_row(row)
    check_spec(parsed, spec)
    others = [name for name in SPECS if name != spec]
    for other in others:
        with pytest.raises(RowFaultError) as fault:
            check_spec(parsed, other)
        assert fault.value.code == ("bad_markers" if other == "regime3_v1" else "other_spec")
        assert other in fault.value.message


@pytest.mark.parametrize(
    ("answer", "is_marked"),
    [
        ("<<ANS_START>> (add 2 3) = 5 <<ANS_END>>", True),
        ("It is <<ANS_START>> 5", False),
        ("<<ANS_END>> 5 <<ANS_START>>", False),
        ("<<ANS_START>> 5 <<ANS_END>> <<ANS_START>> 6 <<ANS_END>>", False),
    ],
)
def test_regime3_wants_one_pair_of_markers_in_each_answer(answer: str, is_marked: bool) -> None:
    rows = [
        {"messages": [USER, {"role": "assistant", "content": answer}]},
        {"prompt": "What is 2 + 3?", "completion": answer},
    ]
    for row in map(parse_row, rows):
        assert has_answer_markers(row.example) is is_marked
        if is_marked:
            check_spec(row, "regime3_v1")
        else:
            with pytest.raises(RowFaultError, match=r"answer 1 has no pair of <<ANS_START>> and <<ANS_END>>"):
                check_spec(row, "regime3_v1")


def test_a_message_is_named_by_its_number() -> None:
    with pytest.raises(RowFaultError, match=r"Message 2 of `messages` has the role \"bot\"\. Use one of system, user"):
        parse_row({"messages": [USER, {"role": "bot", "content": "x"}]})


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "rename `conversations` to `messages`"),
        (
            {"prompt": "Hi", "response": "Hello"},
            "Nearest is completion_v1 (prompt/completion): `completion` is missing",
        ),
        ({"instruction": "Hi", "outputs": "Hello"}, "Nearest is chat_sft_v1 (instruction/output): `output` is missing"),
        ({"message": [USER]}, "Nearest is chat_sft_v1 (messages): `messages` is missing; the row has `message`."),
        ({"prompt": "Hi", "completion": None}, "`completion` is missing"),
    ],
)
def test_an_unknown_shape_is_compared_with_the_nearest(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RowFaultError) as fault:
        parse_row(row)
    assert sentence in fault.value.message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["user", "assistant", "system"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "prompt", "completion", "instruction", "input", "output", "text"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_is_an_example_or_a_known_fault(value: object) -> None:
    try:
        row = parse_line(json.dumps(value).encode())
    except RowFaultError as fault:
        assert fault.code in FAULT_CODES
    else:
        assert all(text.strip() and text.encode() for text in texts_of(row.example))
        assert not is_chat(row.example) or {"user", "assistant"} <= {m["role"] for m in row.example["messages"]}


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_a_known_fault(line: bytes) -> None:
    try:
        parse_line(line)
    except RowFaultError as fault:
        assert fault.code in FAULT_CODES


def test_the_web_process_may_import_it() -> None:
    code = "import sys, training.data.specs, training.data.rows, training.profiles.plain; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "tokenizers"} & set(loaded)
