"""A round of placing: goes through the whole queue, however long, and claims what has a place. The dispatcher's thread.

The fleet is read once a round. Jobs that ask for the same wait for the same, so that once one of them finds no room the
others behind it cost next to nothing; what each asks for is kept from round to round.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from controlplane import asks
from controlplane.asks import Ask
from controlplane.host_room import FleetRoom
from controlplane.kinds.registry import KINDS, kind_of
from controlplane.models import Job
from controlplane.placement import Place, Waits, find
from controlplane.services import jobs, settings
from controlplane.services.jobs import Waiting

KEPT_SECONDS = 300.0
READ_AT_ONCE = 200
READ_AHEAD = 50
MOST_READ = 2000
"""New jobs whose asks are read in one round; those behind them have their turn a round later."""

MOST_ASKED = 300
"""Jobs that are looked at one by one in a round, with questions of their own to the data base."""

LATER = "waits a little before it is tried again"
HANDED_OUT = frozenset(name for name, kind in KINDS.items() if not kind.runs_here)

Key = tuple[int, datetime, int]
Claim = Callable[[Job, Place], bool]


@dataclass
class Asks:
    """What waiting jobs ask for, by job and attempt, with when that was read."""

    known: dict[Key, tuple[Ask, float]] = field(default_factory=dict)

    def of(self, rows: list[Waiting]) -> dict[int, Ask]:
        """The asks of these jobs, as far as they have been read; the first ones of the queue always are."""
        now = time.monotonic()
        self.known = {
            key: kept for row in rows if (kept := self.known.get(key := _key(row))) and now - kept[1] < KEPT_SECONDS
        }
        new = [row for row in rows if _key(row) not in self.known][:MOST_READ]
        for start in range(0, len(new), READ_AT_ONCE):
            part = {row.pk: row for row in new[start : start + READ_AT_ONCE]}
            for job in jobs.whole(part):
                self.known[_key(part[job.pk])] = (asks.of(job), now)
        return {row.pk: self.known[_key(row)][0] for row in rows if _key(row) in self.known}


def _key(row: Waiting) -> Key:
    return row.pk, row.created_at, row.attempt_count


@dataclass
class Round:
    """One walk through the queue. `told`: the jobs to each new reason for waiting; `order`: all jobs, as they wait."""

    fleet: FleetRoom
    held: dict[str, str | None]
    order: list[int]
    jobs: dict[int, Job] = field(default_factory=dict)
    ahead: int = 1
    closed: dict[Ask, str] = field(default_factory=dict)
    taken_turns: dict[str, str] = field(default_factory=dict)
    told: dict[str, list[int]] = field(default_factory=dict)
    asked: int = 0

    def decide(self, row: Waiting, ask: Ask, claim: Claim) -> None:
        """Claims the job, or notes why it waits."""
        reason = self.held[row.kind] or self.closed.get(ask) or self.taken_turns.get(ask.turn)
        if reason is None and self.asked < MOST_ASKED:
            found = find(ask, self.fleet)
            if isinstance(found, Waits):
                reason = self.closed[ask] = found.reason
            else:
                reason = self._claim(row, ask, found, claim)
        if reason is not None and reason != row.waiting_reason:
            self.told.setdefault(reason, []).append(row.pk)

    def _claim(self, row: Waiting, ask: Ask, found: Place, claim: Claim) -> str | None:
        self.asked += 1
        if (job := self._whole(row.pk)) is None:
            return None
        if reason := kind_of(job).waits_for(job):
            if ask.turn:
                self.taken_turns[ask.turn] = reason
            return reason
        if claim(job, found):
            self.asked -= 1
            for host, gpus in ((found.host, found.gpus), *found.others):
                next(room for room in self.fleet.rooms if room.host.pk == host.pk).take(job, gpus)
        return None

    def _whole(self, job_id: int) -> Job | None:
        """The job with all that its kind looks at; the more find room, the more are read ahead."""
        if job_id not in self.jobs:
            begin = self.order.index(job_id)
            self.jobs = {job.pk: job for job in jobs.whole(self.order[begin : begin + self.ahead])}
            self.ahead = min(2 * self.ahead, READ_AHEAD)
        return self.jobs.pop(job_id, None)


def run(kept: Asks, claim: Claim) -> None:
    """Goes through all that waits, in the order in which it starts, and tells what can't start why."""
    rows = [row for row in jobs.waiting() if row.kind in HANDED_OUT]
    if not rows:
        return
    known = kept.of(rows)
    with settings.read_once():
        held = {name: kind.held() for name, kind in KINDS.items()}
        round_ = Round(FleetRoom.now(), held, [row.pk for row in rows])
        for row in rows:
            if row.not_before is not None and row.not_before.timestamp() > time.time():
                if row.waiting_reason != LATER:
                    round_.told.setdefault(LATER, []).append(row.pk)
            elif (ask := known.get(row.pk)) is not None:
                round_.decide(row, ask, claim)
    _tell(round_.told.items())


def _tell(told: Iterable[tuple[str, list[int]]]) -> None:
    for reason, job_ids in told:
        jobs.tell_waiting(job_ids, reason)
