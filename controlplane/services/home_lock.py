"""Work that one process of a home does at a time, whether the web server or a command in a terminal asks for it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from controlplane.errors import ConflictError


@contextmanager
def alone(name: str, what: str) -> Iterator[None]:
    """Holds the lock file `name` of the home for a block. Raises ConflictError while another process holds it.

    The kernel lets go of it when its holder ends, however that ends.
    """
    with (Path(settings.HOME) / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"Another {what} is at work in this home. Wait for it.") from None
        yield
