"""What an engine keeps for later requests, and how it does without where memory runs out.

Runs in the engine's thread; only `kept_bytes` is read by any.
"""

from collections.abc import Callable, Sequence

from inference.engine.base import Result
from inference.engine.choice import Ticket
from inference.engine.failures import CacheFullError, give_memory_back, is_out_of_memory
from inference.engine.prefixes import Beginning, Kept, PrefixStore


class Memory:
    """At most `limit_bytes` of what was computed, kept for requests that begin as earlier ones did."""

    def __init__(self, limit_bytes: int) -> None:
        self._prefixes = PrefixStore(limit_bytes)

    @property
    def kept_bytes(self) -> int:
        """What is kept at this moment."""
        return self._prefixes.size_bytes

    def find(self, token_ids: Sequence[int], adapter: str) -> Beginning | None:
        """See `PrefixStore.find`."""
        return self._prefixes.find(token_ids, adapter)

    def keep(self, ticket: Ticket, token_ids: Sequence[int], token_bytes: int, copied: Callable[[int], Kept]) -> None:
        """Keeps what was computed for tokens of a request, where there is memory for it; see `PrefixStore.keep`."""
        try:
            self._prefixes.keep(token_ids, ticket.request.adapter, token_bytes, copied)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.release(error)

    def with_enough(self, work: Callable[[], Result]) -> Result:
        """Does work that changes nothing where it fails. No request fails for want of memory that is only kept for
        later ones: they lose it, and the work is done again."""
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error) or not self.release(error):
                raise
        return work()

    def release(self, error: Exception) -> bool:
        """Gives back what can be given back after an error; returns whether anything was kept for later requests.

        What is kept beside a cache that is full takes none of its room.
        """
        if isinstance(error, CacheFullError):
            return False
        has_kept = self._prefixes.size_bytes > 0
        self._prefixes.clear()
        give_memory_back(error)
        return has_kept
