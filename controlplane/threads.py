"""Threads that work for the dispatcher: behind the same fence as who starts them; at their end nothing stays lent."""

import logging
import threading
from collections.abc import Callable

from controlplane import fence
from controlplane.fence import Fence, LeaseLostError
from controlplane.kept_connections import let_go

log = logging.getLogger(__name__)


def begin(name: str, work: Callable[[], None]) -> threading.Thread:
    """Starts `work` in a thread of this name."""
    thread = threading.Thread(target=_work, args=(work, fence.current()), name=name, daemon=True)
    thread.start()
    return thread


def _work(work: Callable[[], None], held: Fence | None) -> None:
    try:
        with fence.behind(held):
            work()
    except LeaseLostError:
        log.info("%s ends: another process dispatches", threading.current_thread().name)
    finally:
        let_go()
