"""What a training process has been told by signals, remembered until the next step boundary.

Runs in the training process. A handler only notes the wish: checkpoints and models are written by the training loop,
at a point where the weights are whole. It listens before anything heavy is imported, so that a wish is never lost.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from monitoring.events import Wish

WISH_FILE = "wish"


class Wishes:
    """The wish in force, or None. PAUSE (the host may be going down) outdoes STOP.

    Where several processes train, the one that hears the signals leaves the wish in a file, and the others read it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._told: Wish | None = None
        self._file = folder / WISH_FILE if folder else None

    @property
    def told(self) -> Wish | None:
        """The wish in force; a look at the file takes microseconds."""
        if self._file is None or self._told is Wish.PAUSE:
            return self._told
        try:
            self._told = Wish(self._file.read_text())
        except (FileNotFoundError, ValueError):  # not there, or not written to its end
            return self._told
        return self._told

    def leave_in(self, folder: Path) -> None:
        """From here on a wish is left in that folder too."""
        self._file = folder / WISH_FILE
        if self._told is not None:
            self._file.write_text(self._told.value)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the two signals for the duration of the block. Main thread only."""
        before = {wish: signal.signal(wish.signal, self._note) for wish in (Wish.PAUSE, Wish.STOP)}
        try:
            yield
        finally:
            for wish, handler in before.items():
                signal.signal(wish.signal, handler)

    def tell(self, wish: Wish) -> None:
        """Notes a wish, from wherever it comes."""
        if wish is Wish.PAUSE or self._told is None:
            self._told = wish
            if self._file is not None:
                self._file.write_text(wish.value)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.tell(Wish.PAUSE if number == Wish.PAUSE.signal else Wish.STOP)
