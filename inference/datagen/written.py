"""The prompt within what a model wrote when it was asked for one. Runs in the inference process of `generate_data`."""

import re

LONGEST_PROMPT = 4_000
"""Characters. What is longer is no prompt but a model that can't stop."""

_QUOTES = {'"': '"', "“": "”", "«": "»", "`": "`"}
_NUMBER = re.compile(r"\s*(?:[-*]|\d{1,2}[.)])\s+")
_LABEL = re.compile(r"\s*(?:(?:new |rewritten )?(?:request|message|instruction|prompt|task|question)\s*:)\s*", re.I)
_NEXT_NUMBER = re.compile(r"\n\s*\d{1,2}[.)]\s")
_ANSWER = re.compile(r"\n\s*(?:answer|assistant|response)\s*:", re.I)


def without_frame(text: str) -> str:
    """The text without a label before it ("New message:") and the quotes around it."""
    text = text[found.end() :].strip() if (found := _LABEL.match(text)) else text.strip()
    closing = _QUOTES.get(text[:1])
    if closing and len(text) > 1 and text.endswith(closing) and closing not in text[1:-1]:
        return text[1:-1].strip()
    return text


def first_of_list(text: str) -> str:
    """The first entry where the model has gone on with the list that it was shown, without its number or an answer.

    A list within a prompt stays: it is cut at the next number only where it began with one.
    """
    text = without_frame(text)
    ends = [_ANSWER]
    if found := _NUMBER.match(text):
        text = text[found.end() :]
        ends.append(_NEXT_NUMBER)
    for end in ends:
        text = end.split(text, maxsplit=1)[0]
    return without_frame(text)


def is_prompt(text: str) -> bool:
    """Whether there is anything to ask."""
    return 0 < len(text) <= LONGEST_PROMPT and any(character.isalnum() for character in text)
