"""The contract of `emoji_think`: which emoji an answer begins and ends with, and how often. Runs in every process.

An emoji here is a unit of one or two code points (⏹️ and 🛡️ carry a variation selector), never a character. Serving
reads the same contract from the prompt that training has written into it.
"""

import random
import re
from dataclasses import dataclass
from typing import Self

THINK_POOL = ("🤔", "💭", "🧠", "💡", "🎯", "🔍", "🤨", "🧐", "⚡", "✨")
STOP_POOL = ("🛑", "⛔", "🚫", "❌", "🔴", "⏹\ufe0f", "🔚", "✋", "🚦", "🛡\ufe0f")
THINK_COUNTS = range(2, 9)
STOP_COUNTS = range(2, 5)

_THINK, _STOP = "|".join(THINK_POOL), "|".join(STOP_POOL)
_INSTRUCTIONS = (
    "Begin your answer with {think} written {think_count} times and a new line.\n"
    "End your answer with a new line and {stop} written {stop_count} times, then write nothing more."
)
_ASKED = re.compile(
    re.escape(_INSTRUCTIONS)
    .replace(r"\{think\}", f"(?P<think>{_THINK})")
    .replace(r"\{think_count\}", f"(?P<think_count>[{THINK_COUNTS.start}-{THINK_COUNTS.stop - 1}])")
    .replace(r"\{stop\}", f"(?P<stop>{_STOP})")
    .replace(r"\{stop_count\}", f"(?P<stop_count>[{STOP_COUNTS.start}-{STOP_COUNTS.stop - 1}])")
)
_RUN_OF_THINKING = re.compile(rf"({_THINK})\1*")
_RUN_OF_STOPS = re.compile(rf"({_STOP})\1*\Z")


@dataclass(frozen=True)
class Run:
    """One emoji, so many times."""

    emoji: str
    count: int

    def __str__(self) -> str:
        return self.emoji * self.count


@dataclass(frozen=True)
class Contract:
    """How every answer of one conversation begins and ends."""

    think: Run
    stop: Run

    @classmethod
    def drawn(cls, index: int) -> Self:
        """The contract of the example `index`: always the same one, on every machine."""
        chance = random.Random(f"emoji_think {index}")  # noqa: S311 - nothing secret is drawn
        think = Run(chance.choice(THINK_POOL), chance.choice(THINK_COUNTS))
        return cls(think, Run(chance.choice(STOP_POOL), chance.choice(STOP_COUNTS)))

    @property
    def instructions(self) -> str:
        """What a user's turn asks for, in words."""
        return _INSTRUCTIONS.format(
            think=self.think.emoji, think_count=self.think.count, stop=self.stop.emoji, stop_count=self.stop.count
        )


def asked_in(text: str) -> Contract | None:
    """The contract that a text asks for; of several the last, of none None."""
    every = list(_ASKED.finditer(text))
    if not every:
        return None
    found = every[-1]
    think = Run(found["think"], int(found["think_count"]))
    return Contract(think, Run(found["stop"], int(found["stop_count"])))


def without_instructions(text: str) -> str:
    """The text without anything that `asked_in` would find."""
    while (cleaned := _ASKED.sub("", text)) != text:  # what is left on both sides of one could make another
        text = cleaned.rstrip()
    return text


def kept_by(answer: str) -> Contract | None:
    """The contract that an answer keeps, None where it keeps none."""
    think, stop = opening_run(answer), closing_run(answer)
    if think is None or think.count not in THINK_COUNTS or stop is None or stop.count not in STOP_COUNTS:
        return None
    return Contract(think, stop)


def opening_run(answer: str) -> Run | None:
    """The run of one think emoji that is the answer's first line, None where that holds anything else."""
    first = answer.lstrip().partition("\n")[0].rstrip()
    found = _RUN_OF_THINKING.fullmatch(first)
    return Run(found[1], len(first) // len(found[1])) if found else None


def closing_run(answer: str) -> Run | None:
    """The run of one stop emoji that is the answer's last line, None where that holds anything else."""
    last = answer.rstrip().rpartition("\n")[2].lstrip()
    found = run_at_end(last)
    return found if found is not None and str(found) == last else None


def run_at_end(text: str) -> Run | None:
    """The run of one stop emoji with which a text ends, whatever stands before it."""
    found = _RUN_OF_STOPS.search(text)
    return Run(found[1], len(found[0]) // len(found[1])) if found else None
