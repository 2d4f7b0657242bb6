"""What callers took of models, and how fast it came: collected in memory, written in batches. Runs in the web process.

A finished request is noted without the data base and written with its neighbours within two seconds; a web server that
ends writes what is left, one that is killed loses those seconds and nothing older.
"""

import asyncio
import contextvars
import csv
import io
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from weakref import WeakSet

from channels.db import database_sync_to_async
from django.db import transaction
from django.db.models import F, QuerySet, Sum
from django.utils import timezone

from controlplane.errors import InvalidInputError
from controlplane.models import ServedSpan, UsageDay
from controlplane.models.access import Actor
from controlplane.models.usage import DAY_SECONDS, MINUTE_SECONDS
from controlplane.services import settings
from controlplane.services.answer_meter import NOTHING, Measured
from controlplane.services.log_histogram import added
from controlplane.services.spreadsheets import harmless

log = logging.getLogger(__name__)
FLUSH_SECONDS = 2.0
LONGEST_DAYS = 400
COUNTS = ("requests", "failures", "cut_short", "prompt_tokens", "completion_tokens")
COLUMNS = ("day", "caller", "key_id", "model", *COUNTS)


@dataclass(frozen=True)
class Served:
    """A request that is over; `failed`: without an answer, or with half of one since its engine ended."""

    caller: str
    key_number: int
    model: str
    measured: Measured
    failed: bool
    time: datetime


@dataclass
class Speeds:
    """What one minute or day of one model is written from."""

    requests: int = 0
    failures: int = 0
    completion_tokens: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    tokens_per_second: list[float] = field(default_factory=list)


class Ledger:
    """What hasn't been written yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._fresh: list[Served] = []
        self._planned: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    def note(self, actor: Actor | None, model: str, measured: Measured = NOTHING, *, failed: bool = False) -> None:
        """Notes a request that is over. On an event loop: its writing is planned there."""
        caller, key = (actor.name, actor.key_id or 0) if actor is not None else ("pilothouse", 0)
        row = Served(caller, key, model, measured, failed, timezone.now())
        with self._lock:
            self._fresh.append(row)
        self._plan()

    def _plan(self) -> None:
        """In a context of its own: the request's own thread, which its context names, has ended by then."""
        loop = asyncio.get_running_loop()
        if loop not in self._planned:
            self._planned.add(loop)
            write = partial(self._write_soon, loop)
            loop.call_later(FLUSH_SECONDS, lambda: loop.create_task(write()), context=contextvars.Context())

    async def _write_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._planned.discard(loop)
        try:
            await database_sync_to_async(self.flush)()
        except Exception:  # a data base that is away for a while: the rows are kept and go with the next ones
            log.exception("usage could not be written; it is kept for the next time")

    def flush(self) -> None:
        """Writes everything that is noted; where that fails it stays noted."""
        with self._writing:
            with self._lock:
                rows, self._fresh = self._fresh, []
            try:
                if rows:
                    _write(rows)
            except BaseException:
                with self._lock:
                    self._fresh = [*rows, *self._fresh]
                raise


ledger = Ledger()


def _write(rows: Sequence[Served]) -> None:
    with transaction.atomic():
        for (day, caller, key, model), counts in _by_caller(rows).items():
            mine = UsageDay.objects.filter(day=day, caller=caller, key_number=key, model=model)
            if not mine.update(**{name: F(name) + value for name, value in counts.items()}):
                UsageDay.objects.create(day=day, caller=caller, key_number=key, model=model, **counts)
        for (resolution, begin, model), speeds in _by_span(rows).items():
            _add_to_span(model, resolution, begin, speeds)


def _by_caller(rows: Iterable[Served]) -> dict[tuple[date, str, int, str], dict[str, int]]:
    found: dict[tuple[date, str, int, str], dict[str, int]] = {}
    for row in rows:
        key = timezone.localdate(row.time), row.caller, row.key_number, row.model
        counts = found.setdefault(key, dict.fromkeys(COUNTS, 0))
        counts["requests"] += 1
        counts["failures"] += row.failed
        counts["cut_short"] += not row.measured.is_whole
        counts["prompt_tokens"] += row.measured.prompt_tokens
        counts["completion_tokens"] += row.measured.completion_tokens
    return found


def _by_span(rows: Iterable[Served]) -> dict[tuple[int, datetime, str], Speeds]:
    found: dict[tuple[int, datetime, str], Speeds] = {}
    for row in rows:
        for resolution in (MINUTE_SECONDS, DAY_SECONDS):
            begin = datetime.fromtimestamp(row.time.timestamp() // resolution * resolution, UTC)
            speeds = found.setdefault((resolution, begin, row.model), Speeds())
            speeds.requests += 1
            speeds.failures += row.failed
            speeds.completion_tokens += row.measured.completion_tokens
            if row.measured.first_token_seconds is not None:
                speeds.first_token_seconds.append(row.measured.first_token_seconds)
            if row.measured.tokens_per_second is not None:
                speeds.tokens_per_second.append(row.measured.tokens_per_second)
    return found


def _add_to_span(model: str, resolution: int, begin: datetime, speeds: Speeds) -> None:
    where: dict[str, Any] = {"model": model, "resolution_seconds": resolution, "begin": begin}
    ServedSpan.objects.get_or_create(**where)
    span = ServedSpan.objects.select_for_update().get(**where)
    span.requests += speeds.requests
    span.failures += speeds.failures
    span.completion_tokens += speeds.completion_tokens
    span.first_token_seconds = added(span.first_token_seconds, speeds.first_token_seconds)
    span.tokens_per_second = added(span.tokens_per_second, speeds.tokens_per_second)
    span.save()


def prune() -> None:
    """Minutes beyond `usage.keep_minutes_days` go; days stay."""
    oldest = timezone.now() - timedelta(days=settings.get("usage.keep_minutes_days"))
    ServedSpan.objects.filter(resolution_seconds=MINUTE_SECONDS, begin__lt=oldest).delete()


# --- Looking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Which usage is asked for: both days belong to it; an empty `model` and a `key_id` of None mean all."""

    first: date
    last: date
    model: str = ""
    key_id: int | None = None

    @classmethod
    def of_days(cls, days: int, model: str = "", key_id: int | None = None) -> "Question":
        """The last so many days, today included."""
        today = timezone.localdate()
        return cls(today - timedelta(days=days - 1), today, model, key_id)

    def rows(self) -> "QuerySet[UsageDay]":
        """Its rows. Raises InvalidInputError for days that can't be."""
        if self.first > self.last or (self.last - self.first).days >= LONGEST_DAYS:
            raise InvalidInputError(f"Usage is told for 1 to {LONGEST_DAYS} days, the first one not after the last.")
        found = UsageDay.objects.filter(day__gte=self.first, day__lte=self.last)
        if self.model:
            found = found.filter(model=self.model)
        return found if self.key_id is None else found.filter(key_number=self.key_id)


def rows(question: Question) -> list[dict[str, Any]]:
    """Usage by day, caller and model, the newest day first."""
    return [
        {
            "day": row.day, "caller": row.caller, "key_id": row.key_number or None, "model": row.model,
            **{name: getattr(row, name) for name in COUNTS},
        }
        for row in question.rows()
    ]  # fmt: skip


def totals(question: Question, *names: str) -> list[dict[str, Any]]:
    """Sums by some of `day`, `caller`, `key_number` and `model`; without any, one row of all of it."""
    sums = {f"sum_{name}": Sum(name, default=0) for name in COUNTS}
    found = question.rows().order_by(*names)
    grouped: Iterable[dict[str, Any]] = found.values(*names).annotate(**sums) if names else [found.aggregate(**sums)]
    return [{name.removeprefix("sum_"): value for name, value in row.items()} for row in grouped]


def as_csv(question: Question) -> str:
    """The same rows as a table with a header line. A name that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for row in rows(question):
        writer.writerow({name: harmless(value) for name, value in row.items()})
    return out.getvalue()
