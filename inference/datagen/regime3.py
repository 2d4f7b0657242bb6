"""The strategy `regime3`: examples of the profile's own generator, exact and without a model. Runs in the process of
the verb `generate_data`; knows no torch.

Every level of difficulty has its turn: one example of each, then the next of each. The first level has only so many;
when they are used up, the others go on.
"""

import contextlib
from collections.abc import Iterator
from itertools import islice

from inference.datagen.tries import Row, Try
from training.data.specs import ChatExample
from training.profiles.regime3.samples import LEVELS, SamplesError, samples


class Regime3:
    """At least `num_examples` distinct rows; the same again for the same seed."""

    def __init__(self, num_examples: int, seed: int) -> None:
        self._num_examples = num_examples
        self._seed = seed

    def tries(self, first: int) -> Iterator[Try]:
        """Those before the first are made too, and left out: each is drawn behind the other."""
        return islice(self._rows(), first, None)

    def _rows(self) -> Iterator[Try]:
        streams = [self._level(level) for level in LEVELS]
        while streams:
            for stream in list(streams):
                if (example := next(stream, None)) is None:
                    streams.remove(stream)
                else:
                    yield Row(example["messages"])

    def _level(self, level: int) -> Iterator[ChatExample]:
        most = LEVELS[level].largest_set
        with contextlib.suppress(SamplesError):  # the level has no more
            yield from samples(min(self._num_examples, most or self._num_examples), level, self._seed)
