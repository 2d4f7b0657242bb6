"""The thread that stores what scripts elsewhere send: what waits is stored together. Runs in the web process.

Each post is answered when its points are on the disk: the data base is told to wait for it here, which it isn't
otherwise. Whoever watches is told of points a few times a second; a run's first message after a start of the process is
to read everything anew, since the process before may have stored points that it told nobody of.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from django.db import connection, transaction

from controlplane.errors import PilothouseError
from controlplane.kept_connections import keep_sound
from controlplane.live.announce import publish
from controlplane.models import Run
from controlplane.models.access import Actor
from controlplane.services import external_points, run_points
from controlplane.services.external_points import Post, Stored
from controlplane.services.points import Point

log = logging.getLogger(__name__)
TOGETHER = 256
TELL_SECONDS = 0.2
RESET_SECONDS = 2.0
"""Reading everything anew costs a page more than a message does: it is asked to less often."""

FORGET_SECONDS = 600.0
"""A run that is silent for so long is forgotten here: its next message is to read everything, as the first was."""


class _Waiting(NamedTuple):
    """A post that somebody waits for, on an event loop."""

    actor: Actor
    run_id: int
    body: bytes
    answer: "asyncio.Future[Stored]"


class _Untold:
    """Points of one run that are stored and that nobody was told of."""

    def __init__(self) -> None:
        self.points: dict[str, list[Point]] = {}
        self.count = 0
        self.is_everything = True  # at first
        self.due = 0.0

    def add(self, fresh: run_points.Fresh) -> None:
        """Notes them, as long as a message can hold them."""
        self.count += sum(map(len, fresh.values()))
        if self.is_everything or self.count > run_points.TOLD_POINTS:
            self.is_everything, self.points = True, {}
            return
        for key, points in fresh.items():
            self.points.setdefault(key, []).extend(points)

    def tell(self, run: Run, now: float) -> None:
        """Publishes them, inside a transaction."""
        if self.is_everything:
            publish(f"run:{run.pk}", "reset", {})
        else:
            run_points.tell(run, self.points)
        self.due = now + (RESET_SECONDS if self.is_everything else TELL_SECONDS)
        self.points, self.count, self.is_everything = {}, 0, False

    def tell_again(self) -> None:
        """What was told inside a transaction came to nothing."""
        self.points, self.count, self.is_everything = {}, max(1, self.count), True
        self.due = monotonic() + RESET_SECONDS


class PointsWriter:
    """Takes posts from event loops; its thread begins with the first one."""

    def __init__(self) -> None:
        self._posts: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._untold: dict[int, _Untold] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    async def store(self, actor: Actor, run_id: int, body: bytes) -> Stored:
        """What became of the post, once it is on the disk. Raises its refusal."""
        answer: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._posts.put(_Waiting(actor, run_id, body, answer))
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="points", daemon=True)
                self._thread.start()
        return await answer

    def _work(self) -> None:
        while True:
            self.round(TELL_SECONDS if any(row.count for row in self._untold.values()) else None)
            keep_sound()

    def round(self, patience_seconds: float | None) -> None:
        """Stores what waits, after waiting so long for the first of it, and tells of what is due."""
        waiting = self._next(patience_seconds)
        try:
            if waiting:
                outcomes = self._stored(waiting)
                _deliver(waiting, outcomes)
            self._tell_due()
        except Exception as error:  # the thread must live for those who come
            log.exception("storing points of scripts stumbled")
            self._tell_again(self._untold)
            _deliver(waiting, [error] * len(waiting))

    def _next(self, patience_seconds: float | None) -> list[_Waiting]:
        found: list[_Waiting] = []
        with suppress(queue.Empty):
            found.append(self._posts.get(timeout=patience_seconds))
            while len(found) < TOGETHER:
                found.append(self._posts.get_nowait())
        return found

    def _stored(self, waiting: Sequence[_Waiting]) -> list[Stored | Exception]:
        outcomes: list[Stored | Exception] = []
        posts: list[Post] = []
        for row in waiting:
            try:
                posts.append(Post(row.actor, row.run_id, external_points.read(row.body)))
            except PilothouseError as error:
                outcomes.append(error)
            else:
                outcomes.append(_LATER)
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA synchronous=FULL")
        found = iter(self._kept(posts) if posts else [])
        return [next(found) if outcome is _LATER else outcome for outcome in outcomes]

    def _kept(self, posts: Sequence[Post]) -> Sequence[Stored | Exception]:
        """All of them in one transaction; where that fails each run's in one of its own."""
        try:
            return external_points.store(posts, self._tell)
        except Exception as error:
            self._tell_again(post.run_id for post in posts)
            runs = dict.fromkeys(post.run_id for post in posts)
            if len(runs) == 1:
                return [error] * len(posts)
            log.exception("storing the points of %d runs together stumbled: each is stored alone", len(runs))
        outcomes: dict[int, Stored | Exception] = {}
        for run_id in runs:
            places = [place for place, post in enumerate(posts) if post.run_id == run_id]
            outcomes |= zip(places, self._kept([posts[place] for place in places]), strict=True)
        return [outcomes[place] for place in range(len(posts))]

    def _tell_again(self, run_ids: Iterable[int]) -> None:
        for run_id in run_ids:
            self._untold.setdefault(run_id, _Untold()).tell_again()

    def _tell(self, run: Run, fresh: run_points.Fresh) -> None:
        untold, now = self._untold.setdefault(run.pk, _Untold()), monotonic()
        untold.add(fresh)
        if now >= untold.due:
            untold.tell(run, now)

    def _tell_due(self) -> None:
        now = monotonic()
        for run_id, untold in list(self._untold.items()):
            if not untold.count and now >= untold.due + FORGET_SECONDS:
                del self._untold[run_id]
            if untold.count and now >= untold.due:
                run = Run.objects.filter(pk=run_id).first()
                if run is None:
                    untold.count = 0
                    continue
                with transaction.atomic():
                    untold.tell(run, now)


_LATER = PilothouseError("not stored yet")


def _deliver(waiting: Sequence[_Waiting], outcomes: Sequence[Stored | Exception]) -> None:
    """Hands the outcomes to those who wait, each on its own loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Stored], Stored | Exception]]] = {}
    for row, outcome in zip(waiting, outcomes, strict=True):
        by_loop.setdefault(row.answer.get_loop(), []).append((row.answer, outcome))
    for loop, answers in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_answer, answers)


def _answer(answers: Sequence[tuple["asyncio.Future[Stored]", Stored | Exception]]) -> None:
    for future, outcome in answers:
        if future.done():
            continue  # the client has left
        if isinstance(outcome, Stored):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


writer = PointsWriter()
