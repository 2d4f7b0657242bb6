"""Tool calls in the text of an answer, whole and in pieces of every size."""

import json

import pytest

from inference.engine.constraints import CALL_OPENING, written_call
from inference.tool_calls import ToolCallReader

STEER = written_call("steer", {"degrees": 7, "why": '</tool_call> "}" <tool_call>\n漢字'})
HAIL = written_call("hail", {})


def read(text: str, width: int, **how: bool) -> tuple[str, list[tuple[str, str]], ToolCallReader]:
    """The words, and (name, arguments) of the calls as their pieces tell them."""
    reader, words = ToolCallReader(**how), ""
    calls: list[list[str]] = []
    for start in range(0, len(text), width):
        said, pieces = reader.push(text[start : start + width])
        words += said
        for piece in pieces:
            if piece.opened is not None:
                assert piece.index == len(calls)
                calls.append([piece.opened.name, ""])
            calls[piece.index][1] += piece.arguments
    said, pieces = reader.finish()
    for piece in pieces:
        calls[piece.index][1] += piece.arguments
    return words + said, [(name, arguments) for name, arguments in calls], reader


@pytest.mark.parametrize("width", [1, 2, 7, 1000])
def test_words_and_calls_are_told_apart(width: int) -> None:
    words, calls, reader = read(f"I'll <tool it. \n{STEER}\n{HAIL}", width)
    assert words == "I'll <tool it."
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [
        ("steer", {"degrees": 7, "why": '</tool_call> "}" <tool_call>\n漢字'}), ("hail", {}),
    ]  # fmt: skip
    assert [(call.name, call.arguments) for call in reader.calls] == calls
    assert len({call.id for call in reader.calls}) == 2


@pytest.mark.parametrize("width", [1, 5, 1000])
def test_words_alone_come_whole(width: int) -> None:
    text = "No call <tool_cal \n"
    assert read(text, width)[:2] == (text, [])


@pytest.mark.parametrize("width", [1, 1000])
def test_a_call_that_is_cut_off_has_what_it_got(width: int) -> None:
    assert read(STEER[: STEER.index("why") + 2], width)[1] == [("steer", '{"degrees": 7, "wh')]
    text = f'So \n{CALL_OPENING}\n{{"name": "ste'
    assert read(text, width)[:2] == (text, [])


@pytest.mark.parametrize("width", [1, 7, 1000])
def test_where_an_answer_is_words_or_calls_words_may_hold_a_tag(width: int) -> None:
    text = f'{{"said": "<tool {STEER}"}}'
    assert read(text, width, is_either=True)[:2] == (text, [])
    assert read("<tool", width, is_either=True)[:2] == ("<tool", [])
    words, calls, _ = read(f"{STEER}\n{HAIL}", width, is_either=True)
    assert (words, [name for name, _ in calls]) == ("", ["steer", "hail"])
