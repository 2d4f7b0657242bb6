"""The profile `regime3`: symbolic reasoning in a canonical form that a program can check. Runs in every process.

An answer ends in one statement: `<<ANS_START>> (add 2 3) = 5 <<ANS_END>>`.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar

from training.data.specs import ChatExample, Message
from training.profiles.base import AnswerFault, refuse_options, with_system_prompt
from training.profiles.regime3.answers import END, START, Statement, between, read_statement, with_one_pair
from training.profiles.regime3.evaluate import EvaluationError, evaluate
from training.profiles.regime3.expression import NotationError, spell

SYSTEM_PROMPT = (
    "Reason briefly, step by step. Then state your answer once, as an expression in canonical form with its result, "
    f"between the markers {START} and {END}. "
    "An expression is (op arg1 arg2 ...): the operator first, one space between parts; an argument is an expression, a "
    "number or a quoted string. "
    f"Example: {START} (add 2 3) = 5 {END}"
)


class Regime3Profile:
    """A configured `system_prompt` goes before the profile's own. Raises ValueError for any option."""

    name: ClassVar[str] = "regime3"
    description: ClassVar[str] = (
        "Each answer ends in one checkable statement between markers, (add 2 3) = 5, in canonical prefix form."
    )
    version: ClassVar[str] = "1"
    processors: ClassVar[str | None] = None
    chat_template: ClassVar[str | None] = None

    def __init__(self, system_prompt: str = "", options: Mapping[str, Any] | None = None) -> None:
        refuse_options(options)
        self._system_prompt = f"{system_prompt.strip()}\n\n{SYSTEM_PROMPT}" if system_prompt.strip() else SYSTEM_PROMPT

    def system_prompt(self, today: date) -> str:
        """The configured prompt, and what the form demands; it does not depend on the date."""
        return self._system_prompt

    def transform(self, example: ChatExample, index: int) -> ChatExample:
        """The example with one pair of markers in each answer, and the prompt where it has none."""
        turns = [
            Message(role="assistant", content=with_one_pair(turn["content"])) if turn["role"] == "assistant" else turn
            for turn in example["messages"]
        ]
        return with_system_prompt(ChatExample(messages=turns), self._system_prompt)

    def check(self, answer: str) -> list[AnswerFault]:
        """Whether there is one pair of markers, an expression that parses, and a result that is right."""
        if not answer.strip():
            return [AnswerFault("empty_answer", "The answer is empty.")]
        stated = between(answer)
        if stated is None:
            return [AnswerFault("no_marker_pair", f"The answer has not exactly one pair of {START} and {END}.")]
        try:
            return _result_faults(read_statement(stated))
        except NotationError as error:
            return [AnswerFault("unreadable_statement", f"Between the markers: {error}")]
        except EvaluationError as error:
            return [AnswerFault("no_value", f"The expression has no value: {error}")]


def _result_faults(statement: Statement) -> list[AnswerFault]:
    right = evaluate(statement.expression)
    if type(right) is type(statement.result) and right == statement.result:
        return []
    return [AnswerFault("wrong_result", f"The result is {spell(right)}, not {spell(statement.result)}.")]
