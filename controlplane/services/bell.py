"""The bell between services and the dispatcher: rung after a commit that gives it something to do.

Each thread that listens has a bell of its own, so that none silences another's.
"""

import threading
from collections import defaultdict

DISPATCHER, GENERATIONS = "dispatcher", "generations"
_bells: defaultdict[str, threading.Event] = defaultdict(threading.Event, {DISPATCHER: threading.Event()})


def wake() -> None:
    """Rings for everybody who has listened."""
    for bell in list(_bells.values()):
        bell.set()


def wait(timeout_seconds: float, listener: str = DISPATCHER) -> bool:
    """Waits for a ring, then silences the listener's bell. Returns whether it rang."""
    bell = _bells[listener]
    rang = bell.wait(timeout_seconds)
    bell.clear()
    return rang
