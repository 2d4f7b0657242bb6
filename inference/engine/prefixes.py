"""Keys and values of what has been worked on, kept for the next request that begins the same way.

Runs in the engine's thread. A conversation comes back with its whole past, and many begin with one system prompt:
what was computed for those tokens holds for them wherever they stand at the beginning.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

BLOCK_TOKENS = 16
"""Beginnings are used in steps of so many tokens: then prompts that share one use the same length of it, and can be
worked on side by side."""

MOST_KEPT = 256
"""Each is compared with each prompt that comes: of a tiny model thousands would fit, and cost more than they spare."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, [heads, tokens, head size]."""

Kept = Any
"""What a decoder keeps of what it has computed, in its library's own form; `Layers` where that is transformers."""


@dataclass(frozen=True)
class Beginning:
    """The first `length` tokens of a prompt, computed already; the layers may hold more."""

    length: int
    layers: Kept


@dataclass(frozen=True)
class _Kept:
    token_ids: npt.NDArray[np.int64]
    adapter: str
    layers: Kept
    size_bytes: int


class PrefixStore:
    """At most `limit_bytes` of keys and values; those that were of no use for the longest time go first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._last_number = 0
        self.size_bytes = 0

    def find(self, token_ids: Sequence[int], adapter: str) -> Beginning | None:
        """The longest beginning of a prompt that is known under an adapter; the last token is never part of it, since
        the next one is computed from it."""
        wanted = np.asarray(token_ids, dtype=np.int64)
        best, length = None, 0
        for number, kept in self._kept.items():
            if kept.adapter == adapter and (common := _common(kept.token_ids, wanted)) > length:
                best, length = number, common
        length = min(length, len(wanted) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        if best is None or length == 0:
            return None
        self._kept.move_to_end(best)
        return Beginning(length, self._kept[best].layers)

    def keep(self, token_ids: Sequence[int], adapter: str, token_bytes: int, copied: Callable[[int], Kept]) -> None:
        """Keeps as many of the tokens as there is room for, unless they are known already: `copied` is given their
        number and copies what was computed for them, `token_bytes` each. A beginning of them is not kept twice."""
        room = self._limit_bytes // token_bytes if token_bytes else 0
        fresh = np.asarray(token_ids[:room], dtype=np.int64)
        if len(fresh) < BLOCK_TOKENS:
            return
        for number, kept in list(self._kept.items()):
            if kept.adapter != adapter:
                continue
            common = _common(kept.token_ids, fresh)
            if common == len(fresh):
                self._kept.move_to_end(number)
                return
            if common == len(kept.token_ids):
                self._drop(number)
        size_bytes = len(fresh) * token_bytes
        while self.size_bytes + size_bytes > self._limit_bytes or len(self._kept) >= MOST_KEPT:
            self._drop(next(iter(self._kept)))
        self._last_number += 1
        self._kept[self._last_number] = _Kept(fresh, adapter, copied(len(fresh)), size_bytes)
        self.size_bytes += size_bytes

    def clear(self) -> None:
        """Gives all of it back."""
        self._kept.clear()
        self.size_bytes = 0

    def _drop(self, number: int) -> None:
        self.size_bytes -= self._kept.pop(number).size_bytes


def _common(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> int:
    """How many tokens two texts have in common from their beginning on."""
    shorter = min(len(left), len(right))
    different = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(different[0]) if len(different) else shorter
