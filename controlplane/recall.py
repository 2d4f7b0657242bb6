"""What was asked of the data base, used again until anything in it changes. Runs in the web process, on event loops.

SQLite tells a connection in microseconds, and without waiting for anybody, whether another one has committed anything
since, in this process or in any other: `PRAGMA data_version`. So what each chat has to know (its key, the engines) is
asked once after each commit, whoever's that was, and nothing is answered from before a change. PostgreSQL has no such
mark: there each chat asks.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections

from controlplane.kept_connections import beside

Mark = tuple[int, int]
Answer = TypeVar("Answer")


class Watch:
    """Tells whether anything was committed. It has a connection of its own, which writes nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place: tuple[str, int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._opened = 0

    def mark(self) -> Mark | None:
        """The same as before only where nothing was committed since; None where that can't be told."""
        with self._lock:
            try:
                connection = self._open()
                if connection is None:
                    return None
                return self._opened, connection.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error:
                self.close()
                return None

    def _open(self) -> sqlite3.Connection | None:
        database = connections.settings[DEFAULT_DB_ALIAS]
        path = str(database["NAME"])
        if "sqlite" not in database["ENGINE"]:
            return None
        try:
            found = Path(path).stat()
        except OSError:
            self.close()
            return None
        place = path, found.st_dev, found.st_ino  # a file that was put in the place of another is another
        if self._connection is None or place != self._place:
            self.close()
            self._place, self._opened = place, self._opened + 1
            if Path(path).is_file():
                address = f"{Path(path).absolute().as_uri()}?mode=rw"
                self._connection = sqlite3.connect(address, uri=True, timeout=0, check_same_thread=False)
        return self._connection

    def close(self) -> None:
        """Gives the connection up; the next look opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Memory:
    """Answers, each by its question, as long as the watch's mark stays the same."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._known: tuple[Mark | None, dict[Hashable, Any]] = None, {}

    async def told(
        self, question: Hashable, ask: Callable[[], Answer | None], still: Callable[[Answer], bool] = bool
    ) -> Answer | None:
        """What `ask` answers, which is called in a thread where that isn't known; a None isn't kept.

        An answer that isn't `still` good for anything but the data base's sake (time passes) is asked for anew. Those
        who ask the same at the same time, with no commit between them, wait for one answer.
        """
        mark = self._watch.mark()  # before the answer, so that what is committed meanwhile makes it an old one
        if mark is None:
            return await beside(ask)
        known_at, known = self._known
        if known_at != mark:
            known = {}
            self._known = mark, known
        answer: Answer | None = known.get(question)
        if answer is not None and still(answer):
            return answer
        pending = asyncio.get_running_loop(), question
        task: asyncio.Task[Answer | None] | None = known.get(pending)
        if task is None:
            task = known[pending] = asyncio.create_task(beside(ask))
            task.add_done_callback(partial(_keep, known, pending, question))
        return await asyncio.shield(task)


def _keep(known: dict[Hashable, Any], pending: Hashable, question: Hashable, task: "asyncio.Task[Any]") -> None:
    del known[pending]
    if not task.cancelled() and task.exception() is None and task.result() is not None:
        known[question] = task.result()


memory = Memory(Watch())
