"""The bell between services and the dispatcher: rung after a commit that gives it something to do."""

import threading

_bell = threading.Event()


def wake() -> None:
    """Rings."""
    _bell.set()


def wait(timeout_seconds: float) -> bool:
    """Waits for a ring, then silences the bell. Returns whether it rang."""
    rang = _bell.wait(timeout_seconds)
    _bell.clear()
    return rang
