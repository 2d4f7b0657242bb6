"""The profile `emoji_think`: think visibly, then stop visibly. Runs in every process.

A contract that a small model can learn and that a program can check: each answer begins with a line of one think emoji
and ends with a line of one stop emoji, as often as the user's turn asks.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar

from training.data.specs import ChatExample, Message
from training.profiles.base import AnswerFault, refuse_options, with_system_prompt
from training.profiles.chatml import CHATML_TEMPLATE
from training.profiles.emoji import (
    STOP_COUNTS,
    THINK_COUNTS,
    Contract,
    Run,
    asked_in,
    closing_run,
    kept_by,
    opening_run,
    without_instructions,
)

_THINK_TAG = re.compile(r"<\s*/?\s*think\s*/?\s*>", re.IGNORECASE)


class EmojiThinkProfile:
    """`system_prompt` goes before conversations that have none. Raises ValueError for any option."""

    name: ClassVar[str] = "emoji_think"
    description: ClassVar[str] = (
        "Each answer begins with a line of one think emoji and ends with a line of one stop emoji, as the user asks."
    )
    version: ClassVar[str] = "1"
    processors: ClassVar[str | None] = "emoji_think"
    chat_template: ClassVar[str | None] = CHATML_TEMPLATE

    def __init__(self, system_prompt: str = "", options: Mapping[str, Any] | None = None) -> None:
        refuse_options(options)
        self._system_prompt = system_prompt

    def system_prompt(self, today: date) -> str:
        """The configured prompt; it does not depend on the date."""
        return self._system_prompt

    def transform(self, example: ChatExample, index: int) -> ChatExample:
        """The example with one contract for all its turns: its own where it has one already, else that of `index`."""
        messages = example["messages"]
        contract = _contract_of(messages) or Contract.drawn(index)
        turns = [Message(role=turn["role"], content=_turn(turn, contract)) for turn in messages]
        return with_system_prompt(ChatExample(messages=turns), self._system_prompt)

    def check(self, answer: str) -> list[AnswerFault]:
        """What breaks the contract, whichever was asked."""
        return _faults(answer, None)

    def check_reply(self, question: str, answer: str) -> list[AnswerFault]:
        """What breaks the contract that the user's turn asks for."""
        return _faults(answer, asked_in(question))


def _contract_of(messages: list[Message]) -> Contract | None:
    """The contract that a conversation has already: asked by a user's turn, or else kept by an answer."""
    asked = (asked_in(turn["content"]) for turn in messages if turn["role"] == "user")
    kept = (kept_by(turn["content"]) for turn in messages if turn["role"] == "assistant")
    return next((found for found in (*asked, *kept) if found), None)


def _turn(turn: Message, contract: Contract) -> str:
    if turn["role"] == "user":
        return f"{without_instructions(turn['content']).rstrip()}\n\n{contract.instructions}"
    if turn["role"] == "assistant":
        return _wrapped(turn["content"], contract)
    return turn["content"]


def _wrapped(answer: str, contract: Contract) -> str:
    """The answer between the two runs, which it may have already."""
    body = _without_think_tags(answer).strip()
    body = body.removeprefix(f"{contract.think}\n")
    body = body.removesuffix(f"\n{contract.stop}").strip()
    return f"{contract.think}\n{body}\n{contract.stop}"


def _without_think_tags(text: str) -> str:
    while (cleaned := _THINK_TAG.sub("", text)) != text:  # a tag within a tag leaves one behind
        text = cleaned
    return text


def _faults(answer: str, asked: Contract | None) -> list[AnswerFault]:
    if not answer.strip():
        return [AnswerFault("empty_answer", "The answer is empty.")]
    faults = []
    if _THINK_TAG.search(answer):
        faults.append(AnswerFault("think_tag", "The answer holds a think tag."))
    think, stop = opening_run(answer), closing_run(answer)
    if think is None:
        faults.append(AnswerFault("no_think_run", "The first line is not a run of one think emoji."))
    elif _differs(think, asked.think if asked else None, THINK_COUNTS):
        wanted = _words(asked.think if asked else None, THINK_COUNTS)
        faults.append(AnswerFault("wrong_think_run", f"The answer begins with {_words(think)}, not {wanted}."))
    if stop is None:
        faults.append(_without_stop(answer))
    elif _differs(stop, asked.stop if asked else None, STOP_COUNTS):
        wanted = _words(asked.stop if asked else None, STOP_COUNTS)
        faults.append(AnswerFault("wrong_stop_run", f"The answer ends with {_words(stop)}, not {wanted}."))
    return faults


def _without_stop(answer: str) -> AnswerFault:
    for line in answer.splitlines():
        if closing_run(line) is not None:
            return AnswerFault("text_after_stop", f"Something stands behind the stop run {line.strip()}.")
    return AnswerFault("no_stop_run", "The last line is not a run of one stop emoji.")


def _differs(run: Run, asked: Run | None, counts: range) -> bool:
    return run != asked if asked is not None else run.count not in counts


def _words(run: Run | None, counts: range = range(0)) -> str:
    """A run as it is told; without one, what is allowed."""
    if run is None:
        return f"{counts.start} to {counts.stop - 1} of one emoji"
    return f"{run.emoji} {run.count} times"
