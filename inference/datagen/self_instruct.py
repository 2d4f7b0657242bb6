"""The strategy `self_instruct`: the model is shown some prompts of the seeds, writes a new one, and answers it.

Runs in the inference process of the verb `generate_data`. After Wang et al. 2022, "Self-Instruct: Aligning Language
Models with Self-Generated Instructions" (the idea, with prompts of its own): which seeds are shown is drawn anew for
each try, and prompts that are like one of the seeds or like one kept before are dropped (`similarity`). The seeds are
shown as if the model had written them, turn by turn: a small model too goes on as it has begun. Of a conversation only
the first turn of the user is shown, and no system prompt.
"""

import itertools
import random
from collections.abc import Iterator

from inference.datagen.seeds import Seeds
from inference.datagen.shaping import shaped_prompt
from inference.datagen.tries import Drop, Question, Row, Steps, Try
from inference.datagen.written import first_of_list, is_prompt
from training.data.specs import Message
from training.profiles.base import Profile

SHOWN_SEEDS = 4
SHOWN_CHARACTERS = 600
"""Of each: what is longer is cut, so that the context holds them all."""

LOOKED_AT = 4 * SHOWN_SEEDS
"""Raw text among the seeds shows nothing: so many are looked at for those that do."""

FIRST = "Write a request that somebody could make to an assistant. Write the request alone, and do not answer it."
ANOTHER = "Write another one, of another kind."
SUBJECT = " Its subject is {domain}."


class SelfInstruct:
    """Tries without end: each draws its own seeds."""

    def __init__(self, seeds: Seeds, profile: Profile, *, seed: int, domain: str) -> None:
        self._seeds = seeds
        self._profile = profile
        self._seed = seed
        self._domain = domain

    def tries(self, first: int) -> Iterator[Try]:
        """One after the other."""
        return (self._try(number) for number in itertools.count(first))

    def _try(self, number: int) -> Try:
        shown = self._drawn(number)
        if not shown:
            return Drop("unreadable", "The seeds that were drawn are raw text, which asks nothing.")
        return self._steps(number, shown)

    def _drawn(self, number: int) -> list[str]:
        chance = random.Random(f"self_instruct {self._seed} {number}")  # noqa: S311 - nothing secret is drawn
        places = chance.sample(range(len(self._seeds)), min(LOOKED_AT, len(self._seeds)))
        read = (self._seeds.read(place) for place in places)
        prompts = (seed.prompts[0] for seed in read if not isinstance(seed, Drop))
        return list(itertools.islice(prompts, SHOWN_SEEDS))

    def _steps(self, number: int, shown: list[str]) -> Steps:
        prompt = first_of_list((yield Question(request(shown, self._domain), apply_profile=False)))
        if not is_prompt(prompt):
            return Drop("unreadable", f"No prompt: {prompt[:80]!r}")
        turns = shaped_prompt(self._profile, prompt, number)
        answer = yield Question(turns, new_prompt=prompt)
        return Row([*turns, Message(role="assistant", content=answer)], None, prompt)


def request(shown: list[str], domain: str = "") -> list[Message]:
    """What the model is asked: to go on with those that are shown, of which there is at least one."""
    turns: list[Message] = []
    for wish, prompt in zip([FIRST, *[ANOTHER] * len(shown)], shown, strict=False):
        turns.append(Message(role="user", content=wish))
        turns.append(Message(role="assistant", content=_short(prompt)))
    subject = SUBJECT.format(domain=domain) if domain else ""
    return [*turns, Message(role="user", content=ANOTHER + subject)]


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= SHOWN_CHARACTERS else f"{prompt[:SHOWN_CHARACTERS]}…"
