"""Data base connections of threads that work all the time. Runs in the web process and the dispatcher.

Django closes a connection after every request. A thread that looks every second keeps its own: opening one costs as
much as a round of questions. On PostgreSQL it is lent from the process's pool for a round: that costs nothing, and
sixty threads that mostly wait don't hold sixty connections.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

THREADS = 2
Answer = TypeVar("Answer")


def keep_sound() -> None:
    """Between two rounds: closes a connection on which something has failed, so that the next round opens another."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred or _is_lent(connection):
            connection.close()


def give_back() -> None:
    """Before a long wait: what is lent goes back to the pool. Does nothing in a transaction, and on SQLite."""
    for connection in connections.all(initialized_only=True):
        if _is_lent(connection):
            connection.close()


def _is_lent(connection: BaseDatabaseWrapper) -> bool:
    return connection.vendor != "sqlite" and not connection.in_atomic_block


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
    try:
        return ask()
    finally:
        keep_sound()
