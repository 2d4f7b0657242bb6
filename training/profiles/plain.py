"""The profile `plain`: injects the system prompt where there is none, and nothing else. Runs in every process."""

from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar

from training.data.specs import ChatExample
from training.profiles.base import AnswerFault, refuse_options, with_system_prompt


class PlainProfile:
    """`system_prompt` may be empty: then every example stays as it is. Raises ValueError for any option."""

    name: ClassVar[str] = "plain"
    description: ClassVar[str] = "Trains on the conversations as they are; adds your system prompt where there is none."
    version: ClassVar[str] = "1"
    processors: ClassVar[str | None] = None
    chat_template: ClassVar[str | None] = None

    def __init__(self, system_prompt: str = "", options: Mapping[str, Any] | None = None) -> None:
        refuse_options(options)
        self._system_prompt = system_prompt

    def system_prompt(self, today: date) -> str:
        """The configured prompt; it does not depend on the date."""
        return self._system_prompt

    def transform(self, example: ChatExample, index: int) -> ChatExample:
        """The example, with the configured prompt as its first message where it has no system message."""
        return with_system_prompt(example, self._system_prompt)

    def check(self, answer: str) -> list[AnswerFault]:
        """Nothing is asked of an answer, but that there is one."""
        return [] if answer.strip() else [AnswerFault("empty_answer", "The answer is empty.")]
