"""What a training process has been told by signals, remembered until the next step boundary.

Runs in the training process. A handler only notes the wish: checkpoints and models are written by the training loop,
at a point where the weights are whole. It listens before anything heavy is imported, so that a wish is never lost.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from monitoring.events import Wish


class Wishes:
    """The wish in force, or None. PAUSE (the host may be going down) outdoes STOP."""

    def __init__(self) -> None:
        self.told: Wish | None = None

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
        if wish is Wish.PAUSE or self.told is None:
            self.told = wish

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.tell(Wish.PAUSE if number == Wish.PAUSE.signal else Wish.STOP)
