"""In which order examples are taken: a function of the seed and the epoch alone, so that a resumed run meets the same.

Runs in the training process.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

FILLER = -1
"""The position of an example with nothing to learn: several processes need batches of equal number and size."""

GROUPED_BATCHES = 50
"""Length grouping sorts within so many batches: enough that padding is small, few enough that order stays random."""


class SeededOrder(Sampler[int]):
    """Positions 0..count-1, shuffled by (seed, epoch); where lengths are given, like lengths stand side by side.

    Batches of like length come in random order, but the one with the longest example comes first in each epoch: what
    does not fit into memory shows at once.
    """

    def __init__(
        self, count: int, seed: int, *, shuffle: bool = True, lengths: Sequence[int] | None = None, batch: int = 1,
        multiple: int = 1,
    ) -> None:  # fmt: skip
        self._count = count
        self._seed = seed
        self._shuffle = shuffle
        self._lengths = lengths
        self._batch = batch
        self._multiple = multiple
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self._count // self._multiple) * self._multiple

    def set_epoch(self, epoch: int) -> None:
        """Whose order comes next; called by the data loader."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions(self.epoch))

    def positions(self, epoch: int) -> list[int]:
        """The order of one epoch; the last batch is filled up to `multiple`."""
        order = self._order(epoch)
        return order + [FILLER] * (len(self) - len(order))

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % (1 << 63))
        order = torch.randperm(self._count, generator=generator).tolist() if self._shuffle else list(range(self._count))
        if self._lengths is None:
            return order
        return self._grouped(order, generator)

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        lengths = self._lengths or ()
        window = self._batch * GROUPED_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            part = sorted(order[start : start + window], key=lambda position: -lengths[position])
            batches += [part[at : at + self._batch] for at in range(0, len(part), self._batch)]
        # A short batch may only stand at the end, or all that follow would straddle two groups.
        tail = [batches.pop()] if len(batches[-1]) < self._batch else []
        if self._shuffle:
            batches = [batches[at] for at in torch.randperm(len(batches), generator=generator).tolist()]
        if batches:
            longest = max(range(len(batches)), key=lambda at: max(lengths[position] for position in batches[at]))
            batches[0], batches[longest] = batches[longest], batches[0]
        return [position for group in batches + tail for position in group]
