"""The settings of a data generation: the part `data_generation` of its spec's `config`, read and checked.

Runs in the inference process of the verb `generate_data`; knows no torch.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

from monitoring.attempt import JobFaultError

SECTION = "data_generation"
STRATEGIES = ("answer", "paraphrase", "self_instruct", "regime3")
MOST_EXAMPLES = 1_000_000
LONGEST_DOMAIN = 500
LEAST_TRIES, TRIES_AN_EXAMPLE = 1_000, 20


@dataclass(frozen=True)
class GenerationOptions:
    """What is made and how. `domain` is a subject that new prompts keep to; `answer` and `regime3` make none from it.

    `temperature`, `top_p` and `max_tokens` hold for every text that the model writes, prompts too. New prompts that
    are `similarity_threshold` or more alike to one that is known are dropped. With `check` only what passes the
    profile's own check is kept. The same `seed` makes the same choices.
    """

    strategy: str = "answer"
    num_examples: int = 100
    domain: str = ""
    seed: int = 42
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 256
    similarity_threshold: float = 0.7
    check: bool = True

    @property
    def most_tries(self) -> int:
        """After so many it ends with what there is."""
        return max(LEAST_TRIES, TRIES_AN_EXAMPLE * self.num_examples)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Reads the section. Raises JobFaultError `bad_setting`."""
        given = dict(config.get(SECTION, {}))
        known = {field.name for field in dataclasses.fields(cls)}
        for name in sorted(set(given) - known):
            raise _refused(f"data_generation has no setting {name!r}.", f"Known: {', '.join(sorted(known))}.")
        options = cls(**given)
        if options.strategy not in STRATEGIES:
            raise _refused(f"There is no strategy {options.strategy!r}.", f"Choose from {', '.join(STRATEGIES)}.")
        if not isinstance(options.domain, str) or len(options.domain) > LONGEST_DOMAIN:
            raise _refused(f"domain is no text of at most {LONGEST_DOMAIN} characters.", "Shorten it.")
        if not isinstance(options.check, bool):
            raise _refused(f"check is {options.check!r}.", "Give true or false.")
        for name, low, high in _RANGES:
            _check_range(name, getattr(options, name), low, high)
        for name in ("num_examples", "seed", "max_tokens"):
            if not isinstance(getattr(options, name), int):
                raise _refused(f"{name} is {getattr(options, name)!r}.", "Give a whole number.")
        return options


_RANGES = (
    ("num_examples", 1, MOST_EXAMPLES),
    ("seed", 0, 2**53),
    ("temperature", 0, 2),
    ("top_p", 1e-6, 1),
    ("max_tokens", 1, 2**31),
    ("similarity_threshold", 0, 1),
)


def _check_range(name: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:  # type: ignore[operator] # it is a number there
        raise _refused(f"{name} is {value!r}.", f"Give a number from {low:,g} to {high:,g}.")


def _refused(message: str, fix: str) -> JobFaultError:
    return JobFaultError("bad_setting", message, fix)
