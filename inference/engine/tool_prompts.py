"""Tools in a prompt. Runs in the inference process.

A chat template that knows tools, and knows them in the form that answers are held to (`constraints`), renders them
itself. For any other the tools stand in words in the system prompt, and what was called and answered in the turns.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from inference.engine.constraints import (
    CALL_CLOSING,
    CALL_OPENING,
    RESPONSE_CLOSING,
    RESPONSE_OPENING,
    written_call,
)

INSTRUCTION = (
    "You may call one or more of these functions where that helps to answer. Each line is one function, with the JSON "
    "schema of its arguments:\n\n{functions}\n\nTo call a function, answer with nothing but this, once for each call:\n"
    f'{CALL_OPENING}\n{{{{"name": "the function\'s name", "arguments": {{{{its arguments}}}}}}}}\n{CALL_CLOSING}'
)


def knows_tools(template: str) -> bool:
    """Whether a template renders tools, calls and their answers in our form."""
    is_ours = CALL_OPENING in template and "arguments" in template
    return is_ours and "tools" in template and "<function=" not in template


def in_words(turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation for a template that knows roles and text alone. `tools` are OpenAI's objects."""
    plain: list[dict[str, Any]] = []
    for turn in turns:
        if turn["role"] != "tool":
            plain.append({"role": turn["role"], "content": _with_calls(turn)})
            continue
        answer = f"{RESPONSE_OPENING}\n{turn['content']}\n{RESPONSE_CLOSING}"
        if plain and plain[-1].get("answers_tools"):
            plain[-1]["content"] += f"\n{answer}"
        else:
            plain.append({"role": "user", "content": answer, "answers_tools": True})
    for turn in plain:
        turn.pop("answers_tools", None)
    if tools:
        functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        instruction = INSTRUCTION.format(functions=functions)
        if plain and plain[0]["role"] == "system":
            plain[0]["content"] = f"{plain[0]['content']}\n\n{instruction}"
        else:
            plain.insert(0, {"role": "system", "content": instruction})
    return plain


def _with_calls(turn: Mapping[str, Any]) -> str:
    calls = [call["function"] for call in turn.get("tool_calls", ())]
    return "\n".join(
        filter(None, (turn["content"], *(written_call(call["name"], call["arguments"]) for call in calls)))
    )
