"""Data base connections of threads that work all the time. Runs in the web process and the dispatcher.

Django closes a connection after every request. A thread that looks every second keeps its own: opening one costs as
much as a round of questions.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from django.db import connections

THREADS = 2
Answer = TypeVar("Answer")


def keep_sound() -> None:
    """Between two rounds: closes a connection on which something has failed, so that the next round opens another."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close()


def let_go() -> None:
    """At the end of a thread."""
    connections.close_all()


async def beside(ask: Callable[[], Answer]) -> Answer:
    """What `ask` answers, in one of a few threads for short questions beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _soundly, ask)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="short questions")


def _soundly(ask: Callable[[], Answer]) -> Answer:
    for connection in connections.all(initialized_only=True):
        if connection.vendor != "sqlite":  # a server may have closed it meanwhile: it is tried as the settings say
            connection.close_if_unusable_or_obsolete()
    try:
        return ask()
    finally:
        keep_sound()
