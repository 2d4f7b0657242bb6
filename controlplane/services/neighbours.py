"""What several web processes tell each other of what each keeps in its memory, once a second, through the data base.

Runs in a thread of each web process on PostgreSQL: how many requests each engine has in flight, when it was last asked,
and what keys have taken within the last minute. So the others' share is known, a second late.
"""

import logging
import threading
from datetime import timedelta
from typing import Any

from django.db import Error
from django.db.models.functions import Now

from controlplane.kept_connections import keep_sound, let_go
from controlplane.models import WebProcess
from controlplane.services.key_limits import gatekeeper
from controlplane.services.routing import traffic

log = logging.getLogger(__name__)
TELL_SECONDS = 1.0
GONE_SECONDS = 5.0
"""What a process has in memory is over when it hasn't been seen for so long."""

FORGOTTEN_SECONDS = 60.0


class Neighbourhood:
    """Tells and listens, until it is stopped."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neighbours", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, and takes this process out of the others' sight."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                tell(self.name)
                listen(self.name)
            except Error as error:
                log.warning("the other web processes are not heard of: %s", str(error).strip())
            except Exception:  # this loop must live; a process of another version may say other things
                log.exception("what the other web processes tell isn't understood")
            finally:
                keep_sound()
            self._stopping.wait(TELL_SECONDS)
        try:
            WebProcess.objects.filter(name=self.name).delete()
        except Error as error:  # the others see by its age that it has gone
            log.warning("this web process can't say that it ends: %s", str(error).strip())
        let_go()


def tell(name: str) -> None:
    """Says what this process keeps in its memory."""
    doings = {"traffic": traffic.told(), "keys": gatekeeper.told()}
    mine = WebProcess.objects.filter(name=name)
    if not mine.update(seen_at=Now(), doings=doings):
        WebProcess.objects.create(name=name, seen_at=Now(), doings=doings)


def listen(name: str) -> None:
    """Hears what the others keep in theirs, and forgets those that have gone."""
    WebProcess.objects.filter(seen_at__lt=Now() - timedelta(seconds=FORGOTTEN_SECONDS)).delete()
    told: list[dict[str, Any]] = [row.doings for row in present().exclude(name=name)]
    traffic.hear([each["traffic"] for each in told])
    gatekeeper.hear([each["keys"] for each in told])


def present() -> Any:
    """The web processes that run now."""
    return WebProcess.objects.filter(seen_at__gte=Now() - timedelta(seconds=GONE_SECONDS)).order_by("name")
