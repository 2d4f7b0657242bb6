"""The strategy `paraphrase`: what the seeds ask, said in other words by the model; their own answers are kept.

Runs in the inference process of the verb `generate_data`. Of a conversation every turn of the user is said anew, and
those behind the last answer are left out, since nothing is learned from them. Answers are kept as the profile shapes
them, for it is the profile's form that the rows are in.
"""

from collections.abc import Iterator

from inference.datagen.seeds import Seed, Seeds
from inference.datagen.shaping import shaped
from inference.datagen.tries import Drop, Question, Row, Steps, Try
from inference.datagen.written import is_prompt, without_frame
from training.data.specs import ChatExample, Message
from training.profiles.base import Profile

REQUEST = (
    "Say this in other words. Keep its meaning, its language, and every name, number and quotation in it.{subject} "
    "Do not answer it.\n\n{message}"
)
SUBJECT = " Its subject is {domain}."
SHOWN = (
    ("How far is it from the Earth to the Moon?", "What is the distance between the Earth and the Moon?"),
    ("Give me two reasons to drink water.", "Name two good reasons for drinking water."),
)
"""Two that are done already: a small model too goes on as it has begun."""


class Paraphrase:
    """One try for each seed."""

    def __init__(self, seeds: Seeds, profile: Profile, domain: str) -> None:
        self._seeds = seeds
        self._profile = profile
        self._domain = domain

    def tries(self, first: int) -> Iterator[Try]:
        """As many as there are seeds."""
        for place in range(first, len(self._seeds)):
            seed = self._seeds.read(place)
            yield seed if isinstance(seed, Drop) else self._steps(seed)

    def _steps(self, seed: Seed) -> Steps:
        turns, said_anew = [], []
        for turn in _answered(seed.example["messages"]):
            if turn["role"] != "user":
                turns.append(turn)
                continue
            text = without_frame((yield Question(request(turn["content"], self._domain), apply_profile=False)))
            if not is_prompt(text):
                return Drop("unreadable", f"No prompt: {text[:80]!r}")
            said_anew.append(text)
            turns.append(Message(role="user", content=text))
        return Row(shaped(self._profile, ChatExample(messages=turns), seed.row), seed.row, "\n".join(said_anew))


def request(message: str, domain: str = "") -> list[Message]:
    """What the model is asked."""
    turns: list[Message] = []
    for said, anew in SHOWN:
        turns.append(_wish(said))
        turns.append(Message(role="assistant", content=anew))
    return [*turns, _wish(message, SUBJECT.format(domain=domain) if domain else "")]


def _wish(message: str, subject: str = "") -> Message:
    return Message(role="user", content=REQUEST.format(subject=subject, message=message))


def _answered(turns: list[Message]) -> list[Message]:
    last = max(place for place, turn in enumerate(turns) if turn["role"] == "assistant")
    return turns[: last + 1]
