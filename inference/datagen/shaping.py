"""A conversation as the profile of the model has it. Runs in the inference process of the verb `generate_data`."""

from training.data.specs import ChatExample, Message
from training.profiles.base import Profile

SOME_ANSWER = "..."
"""Stands where profiles expect an answer and there is none yet."""


def shaped(profile: Profile, example: ChatExample, index: int) -> list[Message]:
    """The turns as they are trained on, but without a system prompt of the profile's own.

    That one belongs to the profile and not to the data: asking adds it, and so does training on the row.
    """
    turns = profile.transform(example, index)["messages"]
    keeps_system = any(turn["role"] == "system" for turn in example["messages"])
    return [turn for turn in turns if keeps_system or turn["role"] != "system"]


def shaped_prompt(profile: Profile, prompt: str, index: int) -> list[Message]:
    """A single question as the profile asks it."""
    user, assistant = Message(role="user", content=prompt), Message(role="assistant", content=SOME_ANSWER)
    turns = shaped(profile, ChatExample(messages=[user, assistant]), index)
    return [turn for turn in turns if turn["role"] != "assistant"]
