"""What a serve job does when it is told to stop. Runs in the inference process, in its main thread.

SIGTERM and SIGUSR1 both mean: take nothing new, finish, exit 0.
"""

import signal
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StoppedWhileLoadingError(Exception):
    """A stop signal came before there was anything to drain."""


class StopSignals:
    """What the process does on a stop signal: breaks off the loading, later calls `on_stop`; it never just dies."""

    def __init__(self) -> None:
        self.is_asked = False
        self.is_loading = True
        self.on_stop: Callable[[], object] = lambda: None
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, *_: object) -> None:
        self.is_asked = True
        if self.is_loading:
            self.is_loading = False
            raise StoppedWhileLoadingError
        self.on_stop()
