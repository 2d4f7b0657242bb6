"""Launches under way: one after the other on a host, all hosts at once. Runs in threads of the web process.

A launch takes as long as its host takes to start a process, and a host that hangs must hold up no other.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from controlplane import threads
from controlplane.kept_connections import keep_sound
from controlplane.models import Attempt

log = logging.getLogger(__name__)


class Launches:
    """Knows what is being launched, so that nothing is launched twice at once. Keeps nothing that must last."""

    def __init__(self, launch: Callable[[Attempt], None]) -> None:
        self._launch = launch
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[Attempt]] = {}
        self._known: set[int] = set()

    def start(self, attempt: Attempt) -> None:
        """Launches an attempt soon, unless that is under way already."""
        with self._lock:
            if attempt.pk in self._known:
                return
            self._known.add(attempt.pk)
            queue = self._waiting.get(attempt.host_id)
            if queue is not None:
                queue.append(attempt)
                return
            self._waiting[attempt.host_id] = deque([attempt])
        name = f"launches on {attempt.host.name}"
        threads.begin(name, partial(self._work, attempt.host_id))

    def _work(self, host_id: int) -> None:
        """Launches what is waiting for a host, and ends when there is nothing left."""
        while (attempt := self._next(host_id)) is not None:
            keep_sound()
            try:
                self._launch(attempt)
            except Exception:  # the host's other attempts must be launched; this one is tried again
                log.exception("launching attempt %s of job %s stumbled", attempt.number, attempt.job_id)
            finally:
                with self._lock:
                    self._known.discard(attempt.pk)

    def _next(self, host_id: int) -> Attempt | None:
        with self._lock:
            queue = self._waiting[host_id]
            if queue:
                return queue.popleft()
            del self._waiting[host_id]
            return None
