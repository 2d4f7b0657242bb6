"""The strategy `answer`: what the seeds ask, answered anew. Runs in the inference process of the verb `generate_data`.

The seeds' own answers are not read: in a conversation of several turns each answer is the model's, given behind its
own earlier ones. A turn of the user that nobody has answered is answered too.
"""

from collections.abc import Iterator
from itertools import pairwise

from inference.datagen.seeds import Seed, Seeds
from inference.datagen.shaping import shaped
from inference.datagen.tries import Drop, Question, Row, Steps, Try
from training.data.specs import Message
from training.profiles.base import Profile


class Answer:
    """One try for each seed."""

    def __init__(self, seeds: Seeds, profile: Profile) -> None:
        self._seeds = seeds
        self._profile = profile

    def tries(self, first: int) -> Iterator[Try]:
        """As many as there are seeds."""
        for place in range(first, len(self._seeds)):
            seed = self._seeds.read(place)
            yield seed if isinstance(seed, Drop) else self._steps(seed)

    def _steps(self, seed: Seed) -> Steps:
        turns: list[Message] = []
        for turn, following in pairwise([*shaped(self._profile, seed.example, seed.row), None]):
            if turn is None or turn["role"] == "assistant":
                continue
            turns.append(turn)
            if turn["role"] == "user" and (following is None or following["role"] != "user"):
                said = yield Question(tuple(turns))
                turns.append(Message(role="assistant", content=said))
        return Row(turns, seed.row)
