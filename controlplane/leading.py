"""Exactly one dispatcher of several web processes, on PostgreSQL. A thread of each of them.

Whoever holds the lease dispatches; the others ask for it once a second. A holder that ends gives it up; one that was
killed, or stands still, loses it when it runs out, and its threads find themselves behind a fence.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import Error

from controlplane.databases import several
from controlplane.dispatch import Dispatcher
from controlplane.fence import LeaseLostError
from controlplane.kept_connections import keep_sound, let_go
from controlplane.services import leases
from controlplane.services.leases import DISPATCHER, RENEW_SECONDS, Held
from controlplane.services.neighbours import Neighbourhood

log = logging.getLogger(__name__)
ASK_SECONDS = 1.0
AGAIN_SECONDS = 0.3


@contextmanager
def at_work(*, dispatch: bool) -> Iterator[None]:
    """What a web process does beside answering: it dispatches, or waits for its turn, and hears of its neighbours."""
    parts: list[Dispatcher | Leader | Neighbourhood] = []
    if several():
        name = leases.name_of_this_process()
        parts = [Neighbourhood(name), *([Leader(name)] if dispatch else [])]
    elif dispatch:
        parts = [Dispatcher()]
    for part in parts:
        part.start()
    try:
        yield
    finally:
        for part in reversed(parts):
            part.stop()


class Leader:
    """In place of a Dispatcher: starts one whenever this process holds the lease."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)

    def start(self) -> None:
        """Begins to ask for the lease."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ends the dispatcher, where it runs, and gives the lease up."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            lease = self._take()
            if lease is not None:
                self._dispatch(lease)
            self._stopping.wait(ASK_SECONDS)
        let_go()

    def _take(self) -> Held | None:
        try:
            return leases.take(DISPATCHER, self.name)
        except Error as error:
            log.warning("the data base doesn't say who dispatches: %s", str(error).strip())
            return None
        finally:
            keep_sound()

    def _dispatch(self, lease: Held) -> None:
        log.info("%s dispatches now (lease %d)", self.name, lease.token)
        dispatcher = Dispatcher(lease=lease)
        dispatcher.start()
        try:
            self._hold(lease)
        except LeaseLostError as error:
            log.warning("%s no longer dispatches: %s", self.name, error)
        finally:
            dispatcher.stop()
        if self._stopping.is_set():
            try:
                lease.release()
            except Error as error:  # it runs out by itself
                log.warning("the lease could not be given up: %s", str(error).strip())

    def _hold(self, lease: Held) -> None:
        """Renews it until this process ends. Raises LeaseLostError when it can't any more."""
        pause = RENEW_SECONDS
        while not self._stopping.wait(pause):
            try:
                lease.renew()
                pause = RENEW_SECONDS
            except Error as error:
                log.warning("the lease could not be renewed yet: %s", str(error).strip())
                pause = AGAIN_SECONDS
            finally:
                keep_sound()
