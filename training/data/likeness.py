"""How alike texts are, by MinHash over runs of their words or characters. Runs in job processes.

An estimate of the share of runs that two texts have in common (Jaccard). Of many texts those that are alike are found
without comparing each with each (locality-sensitive hashing).
"""

import zlib
from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH

PERMUTATIONS = 64
"""The estimate is off by 0.06 or less in two cases of three; a text takes about a millisecond and 2 kB."""

SHARPEST = 0.95
"""Beyond it hashing would find hardly anything; what it finds is compared with the threshold in any case."""


def signature_of(pieces: Sequence[str], run: int, joint: str) -> MinHash:
    """The signature of the runs of so many pieces, joined; of fewer pieces all are one run."""
    last = max(1, len(pieces) - run + 1)
    hashes = {zlib.crc32(joint.join(pieces[at : at + run]).encode("utf-8", "replace")) for at in range(last)}
    signature = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    signature.update_batch(list(hashes))
    return signature


class Likenesses:
    """Signatures by number, of which those are found that are at least `threshold` (0 to 1) alike."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(threshold=min(threshold, SHARPEST), num_perm=PERMUTATIONS)
        self._signatures: dict[int, MinHash] = {}

    def add(self, number: int, signature: MinHash) -> None:
        """Remembers one; its number must be new."""
        self._index.insert(number, signature)
        self._signatures[number] = signature

    def first_alike(self, signature: MinHash) -> int | None:
        """The least number of those that are alike, None where none is."""
        near = (number for number in self._index.query(signature) if self._is_alike(number, signature))
        return min(near, default=None)

    def _is_alike(self, number: int, signature: MinHash) -> bool:
        return bool(self._signatures[number].jaccard(signature) >= self._threshold)
