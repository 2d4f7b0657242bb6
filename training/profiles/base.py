"""What a data profile is, and how one is found by its name. Runs in every process; imports neither torch nor
transformers.

A profile says how an example is transformed before training, which system prompt it gets, which logits processors run
at generation and how an answer is checked. The engine never knows which one it runs. Profiles are found through the
entry-point group `pilothouse.profiles`: a package of the user's own adds one by naming a class there, which is called
with the keyword arguments `system_prompt` and `options` of the run's configuration.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from training.data.specs import ChatExample, Message

ENTRY_POINT_GROUP = "pilothouse.profiles"


class UnknownProfileError(LookupError):
    """No installed package offers a profile of this name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"There is no profile {name!r}. Known profiles: {', '.join(known) or 'none'}.")
        self.name = name
        self.known = known


class BrokenProfileError(RuntimeError):
    """A profile is installed but can't be used: it fails to import, or refuses its options."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The profile {name!r} can't be used: {reason}")
        self.name = name


@dataclass(frozen=True)
class AnswerFault:
    """One thing wrong with an answer: a stable code and a sentence."""

    code: str
    message: str


@runtime_checkable
class Profile(Protocol):
    """The interface of a data profile. Instances hold no state that changes."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""

    @property
    def description(self) -> str:
        """One sentence for the form."""

    @property
    def version(self) -> str:
        """Goes into the model's facts: a model answers as the version it was trained with."""

    @property
    def processors(self) -> str | None:
        """The name of the module in `inference.processors` that holds its logits processors, or None."""

    @property
    def chat_template(self) -> str | None:
        """A chat template that replaces the model's own in training and serving, or None."""

    def system_prompt(self, today: date) -> str:
        """The system prompt that a conversation without one gets; empty: none."""

    def transform(self, example: ChatExample, index: int) -> ChatExample:
        """The example as it is trained on. Pure: same input and index, same output; the input is not changed."""

    def check(self, answer: str) -> list[AnswerFault]:
        """What is wrong with an assistant's answer; empty: nothing."""


@runtime_checkable
class ReplyChecker(Protocol):
    """What a profile may have besides: a check that knows what was asked."""

    def check_reply(self, question: str, answer: str) -> list[AnswerFault]:
        """What is wrong with an answer to this user's turn; empty: nothing."""


def faults_of(profile: Profile, example: ChatExample) -> list[AnswerFault]:
    """What the profile finds wrong with the answers of a conversation, in order."""
    faults, question = [], ""
    for message in example["messages"]:
        if message["role"] == "user":
            question = message["content"]
        elif message["role"] == "assistant" and isinstance(profile, ReplyChecker):
            faults += profile.check_reply(question, message["content"])
        elif message["role"] == "assistant":
            faults += profile.check(message["content"])
    return faults


def with_system_prompt(example: ChatExample, prompt: str) -> ChatExample:
    """A copy of the example, with the prompt as its first message where it has no system message."""
    messages = example["messages"]
    if not prompt or any(message["role"] == "system" for message in messages):
        return ChatExample(messages=list(messages))
    return ChatExample(messages=[Message(role="system", content=prompt), *messages])


def refuse_options(options: Mapping[str, Any] | None) -> None:
    """Raises ValueError for any option: what a profile without options calls first."""
    if options:
        raise ValueError(f"it has no options, but {', '.join(sorted(options))} was given.")


def profile_names() -> tuple[str, ...]:
    """The names of all installed profiles, sorted. Imports none of them."""
    return tuple(sorted(_entries()))


def load_profile(name: str, *, system_prompt: str = "", options: Mapping[str, Any] | None = None) -> Profile:
    """The profile of that name, set up as the run's configuration has it.

    Raises UnknownProfileError (names the known ones) and BrokenProfileError.
    """
    entry = _entries().get(name)
    if entry is None:
        raise UnknownProfileError(name, profile_names())
    try:
        profile = entry.load()(system_prompt=system_prompt, options=dict(options or {}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise BrokenProfileError(name, str(error)) from error
    if not isinstance(profile, Profile):
        raise BrokenProfileError(name, f"{entry.value} lacks a part of training.profiles.base.Profile.")
    return profile


def _entries() -> Mapping[str, EntryPoint]:
    return _entries_in(tuple((folder, _changed_at(folder)) for folder in sys.path))


@lru_cache(maxsize=4)
def _entries_in(folders: tuple[tuple[str, int], ...]) -> Mapping[str, EntryPoint]:
    """Looking through all installed packages takes tens of milliseconds: done again when one comes or goes."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _changed_at(folder: str) -> int:
    """When something was put into a folder or taken out, in nanoseconds; 0 where it isn't there."""
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0
