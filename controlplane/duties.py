"""What the web process does again and again beside dispatching: each duty in a thread of its own. Runs in there.

A duty is a function without arguments that looks at the data base and does what is due; it keeps nothing, so that a
restart loses nothing. One that fails is logged and does its work the next time.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from django.db import close_old_connections

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Duty:
    """Something that is done every so many seconds."""

    name: str
    every_seconds: float
    work: Callable[[], object]

    def run(self, stopping: threading.Event) -> None:
        """Does it until `stopping` is set."""
        while not stopping.wait(self.every_seconds):
            try:
                self.work()
            except Exception:  # this loop must live
                log.exception("the duty %s stumbled", self.name)
            finally:
                close_old_connections()


DUTIES: tuple[Duty, ...] = ()
