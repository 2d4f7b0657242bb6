"""Forms that cost too much are refused before they are compiled, and no more are compiled than there is time for."""

import asyncio
import json
import threading
from typing import Any

import pytest
from pydantic import ValidationError

from inference.compiling import MOST_WAITING, WORKERS, Compiler
from inference.engine.base import QueueFullError
from inference.engine.constraints import Constraint, JsonSchema
from inference.engine.schema_limits import (
    MOST_ALTERNATIVES,
    MOST_CHARACTERS,
    MOST_CHARACTERS_OF_TOOLS,
    MOST_COMBINED,
    MOST_LEVELS,
    fault_of_schema,
)
from inference.openai import ChatCompletionBody


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels - 1):
        value = {"items": value}
    return value


@pytest.mark.parametrize(
    ("most", "more", "said"),
    [
        (nested(MOST_LEVELS), nested(MOST_LEVELS + 1), "levels deep"),
        (nested(1), nested(100_000), "levels deep"),
        ({"title": "x" * (MOST_CHARACTERS - 20)}, {"title": "x" * MOST_CHARACTERS}, "characters"),
        ({"enum": [0] * MOST_ALTERNATIVES}, {"enum": [0] * MOST_ALTERNATIVES, "anyOf": [{}]}, "alternatives"),
        ({"items": {"allOf": [{}] * MOST_COMBINED}}, {"items": {"allOf": [{}] * (MOST_COMBINED + 1)}}, "allOf"),
    ],
    ids=["deep", "deeper than the interpreter", "long", "alternatives", "combined"],
)
def test_a_schema_has_bounds(most: Any, more: Any, said: str) -> None:
    assert fault_of_schema(most) == ""
    assert said in fault_of_schema(more)


def test_tools_have_bounds_together() -> None:
    parameters = {"type": "object", "title": "x" * (MOST_CHARACTERS // 2)}
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": parameters}}
        for number in range(MOST_CHARACTERS_OF_TOOLS * 2 // MOST_CHARACTERS)
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": "Ahoy"}]}
    assert ChatCompletionBody.model_validate({**body, "tools": tools[:-1]}).characters > MOST_CHARACTERS
    with pytest.raises(ValidationError, match="offer fewer tools"):
        ChatCompletionBody.model_validate({**body, "tools": tools})


class SlowEngine:
    """Compiles until it is let go."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def prepare(self, constraint: Constraint) -> None:
        self.may_go_on.wait(60)


def test_more_forms_than_can_wait_are_refused() -> None:
    engine = SlowEngine()

    async def run() -> None:
        compiler = Compiler(engine)  # type: ignore[arg-type]  # of an engine it needs `prepare` alone
        form = JsonSchema(json.dumps({"type": "null"}))
        waiting = [asyncio.create_task(compiler.prepare(form)) for _ in range(WORKERS + MOST_WAITING)]
        await asyncio.sleep(0)  # each has begun
        with pytest.raises(QueueFullError, match="try again"):
            await compiler.prepare(form)
        engine.may_go_on.set()
        await asyncio.gather(*waiting)
        await compiler.prepare(form)

    asyncio.run(run())
