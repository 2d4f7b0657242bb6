"""What an answer may be held to: JSON by a schema, or calls of tools. Runs in the inference process; knows no library.

Calls are written as Qwen's and Hermes's models were taught: a JSON object between two tags. What is written in the
prompt (`chat`), what may be generated (`grammar`) and what is read from the answer (`inference.tool_calls`) agree here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CALL_OPENING = "<tool_call>"
CALL_CLOSING = "</tool_call>"
RESPONSE_OPENING = "<tool_response>"
RESPONSE_CLOSING = "</tool_response>"
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class JsonSchema:
    """JSON that a schema allows. `text` is the schema as JSON; `parameter` is the option that gave it."""

    text: str
    parameter: str = "response_format"


@dataclass(frozen=True)
class Tool:
    """A function that may be called. `parameters` is the JSON schema of its arguments."""

    name: str
    parameters: JsonSchema


@dataclass(frozen=True)
class ToolCalls:
    """Calls of tools. Without `must_call` an answer in words will do, held to `otherwise` where that is given."""

    tools: tuple[Tool, ...]
    must_call: bool = False
    may_repeat: bool = True
    otherwise: JsonSchema | None = None


Constraint = JsonSchema | ToolCalls


def head_of_call(name: str) -> str:
    """What stands before the arguments of a call."""
    return f'{{"name": {json.dumps(name)}, "arguments": '


END_OF_CALL = "}\n" + CALL_CLOSING
"""What stands behind the arguments. JSON has no bare line break, so it can't be met inside of them."""


def written_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A whole call, as a model writes it."""
    return f"{CALL_OPENING}\n{head_of_call(name)}{json.dumps(arguments, ensure_ascii=False)}{END_OF_CALL}"
