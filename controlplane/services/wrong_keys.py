"""Wrong keys by the network that they come from: who guesses too often waits. Runs in the web process.

Counted in the memory of each web process: a key has 256 random bits, so this spares the data base rather than the key.
What has opened from a network within the hour goes on opening there, so that one broken script shuts no others out.
"""

import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque

from controlplane.errors import TooManyGuessesError

WRONG_KEYS = 30
WITHIN_SECONDS = 60.0
KNOWN_SECONDS = 3600.0
MOST_REMEMBERED = 10_000
IPV6_NETWORK_BITS = 64
"""Whoever has one address of IPv6 has as many as a network of this size holds."""


def network(address: str) -> str:
    """An address of IPv4 as it is, one of IPv6 as the first of its network; nothing where it is none."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - no address to listen on: the column wants one
    if isinstance(known, ipaddress.IPv4Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, IPV6_NETWORK_BITS), strict=False).network_address)


class WrongKeys:
    """Wrong keys by network, and which right ones are known there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, address: str, hashed: str, now: float | None = None) -> None:
        """Raises TooManyGuessesError where a key that isn't known there follows too many wrong ones."""
        now, place = time.monotonic() if now is None else now, network(address)
        with self._lock:
            wrong = self._wrong.get(place)
            while wrong and wrong[0] <= now - WITHIN_SECONDS:
                wrong.popleft()
            if not wrong or len(wrong) < WRONG_KEYS or self._known.get((place, hashed), 0.0) > now:
                return
            wait = max(1, math.ceil(wrong[0] + WITHIN_SECONDS - now))
        raise TooManyGuessesError(f"Too many wrong keys came from {address}: send the right one in {wait} s.", wait)

    def note(self, address: str, hashed: str, is_valid: bool, now: float | None = None) -> None:
        """Remembers what became of a key."""
        now, place = time.monotonic() if now is None else now, network(address)
        with self._lock:
            if is_valid:
                self._known[place, hashed] = now + KNOWN_SECONDS
                self._known.move_to_end((place, hashed))
            else:
                self._known.pop((place, hashed), None)
                self._wrong.setdefault(place, deque(maxlen=WRONG_KEYS)).append(now)
                self._wrong.move_to_end(place)
            for memory in (self._known, self._wrong):
                while len(memory) > MOST_REMEMBERED:
                    memory.popitem(last=False)


wrong_keys = WrongKeys()
