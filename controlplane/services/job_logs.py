"""The logs of jobs, attempt by attempt, as the agents of their hosts read them. Runs in the web process."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from controlplane.fleet.protocol import AgentRefusedError, Carrier, HostUnreachableError, LogBytes
from controlplane.fleet.registry import carrier
from controlplane.legible import is_legible
from controlplane.models import Attempt, Job
from controlplane.models.jobs import Kind
from controlplane.moments import iso
from controlplane.services import jobs
from controlplane.services.logs import away
from monitoring.log_text import LEVELS, MAX_LINES

LONGEST_SEARCH = 200
PAGE_LINES = 500
WITHOUT_PROCESS = frozenset({Kind.GENERATE, Kind.EXTERNAL, Kind.IMPORT, Kind.BACKUP, Kind.CLEAN})
"""Kinds that the web process does itself: what it says of them stands in its own log."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Question:
    """Which lines of a log are wanted; offsets are in bytes, `number` is that of the line there."""

    before: int | None = None
    after: int | None = None
    number: int | None = None
    lines: int = PAGE_LINES
    level: str = ""
    search: str = ""

    def check(self) -> "Question":
        """The same. Raises InvalidInputError."""
        if self.before is not None and self.after is not None:
            raise InvalidInputError("A log is read before a byte or after one, not both.")
        if not 1 <= self.lines <= MAX_LINES:
            raise InvalidInputError(f"lines must lie between 1 and {MAX_LINES}.")
        if self.level and self.level not in LEVELS:
            raise InvalidInputError(f"There is no level {self.level[:50]!r}: choose {', '.join(LEVELS)}.")
        if len(self.search) > LONGEST_SEARCH or not is_legible(self.search.replace("\t", " ")):
            raise InvalidInputError(f"A search has up to {LONGEST_SEARCH} printable characters.")
        return self


def attempts(job: Job) -> list[Attempt]:
    """The attempts of a job, the newest first."""
    return list(job.attempts.select_related("host").order_by("-number"))


def attempt_of(job: Job, number: int | None) -> Attempt | None:
    """The attempt asked for, or the last; None before the first. Raises NotFoundError."""
    rows = job.attempts.select_related("host").order_by("-number")
    if number is None:
        return rows.first()
    found = rows.filter(number=number).first()
    if found is None:
        raise NotFoundError(f"Job {job.pk} has no attempt {number}.")
    return found


def page(job_id: int, number: int | None, question: Question) -> dict[str, Any]:
    """Lines of one attempt's log, the last one's without `number`, and which attempts there are.

    Raises NotFoundError, InvalidInputError, UnavailableError when the host is away.
    """
    job = jobs.get(job_id)
    question = question.check()
    attempt = attempt_of(job, number)
    nothing = {"lines": [], "start": 0, "end": 0, "size": 0, "number": 1, "end_number": 1, "ended": job.has_ended}
    found: dict[str, Any] = nothing
    if attempt is not None:
        found = {**_asked(attempt, lambda agent: agent.page_log(job.pk, attempt.number, **vars(question)))}
    return {
        "job_id": job.pk, "attempt": attempt.number if attempt else None,
        "attempts": [_facts(row) for row in attempts(job)], **found,
    }  # fmt: skip


def _facts(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number, "host": attempt.host.name, "created_at": attempt.created_at.isoformat(),
        "ended_at": iso(attempt.ended_at),
    }  # fmt: skip


def pieces(job_id: int, number: int | None) -> tuple[str, int, Iterator[bytes]]:
    """A log as a file: its name, its size now, and its bytes piece by piece as they are wanted.

    Raises NotFoundError where there is nothing, UnavailableError when the host is away.
    """
    job = jobs.get(job_id)
    attempt = attempt_of(job, number)
    if attempt is None:
        raise NotFoundError(f"Job {job_id} has no log: it hasn't been started.")
    first = _asked(attempt, lambda agent: agent.copy_log(job.pk, attempt.number))
    if not first["size"]:
        raise NotFoundError(f"Attempt {attempt.number} of job {job_id} has written no log, or it was cleaned away.")
    name = f"job-{job.pk}-attempt-{attempt.number}.log{'.gz' if first['packed'] else ''}"
    return name, first["size"], _pieces(attempt, first)


def _pieces(attempt: Attempt, first: LogBytes) -> Iterator[bytes]:
    """What grows meanwhile stays out; a file that became shorter, or another one (compressed meanwhile), ends it."""
    size, sent, found = first["size"], 0, first
    while sent < size and _goes_on(first, found) and (data := base64.b64decode(found["data"])):
        yield data[: size - sent]
        sent += len(data)
        if sent < size:
            found = _piece(attempt, sent)


def _goes_on(first: LogBytes, found: LogBytes) -> bool:
    """Whether a later piece is of the file of the first."""
    if found["packed"] != first["packed"]:
        return False
    return found["size"] == first["size"] if first["packed"] else found["size"] >= first["size"]


def _piece(attempt: Attempt, start: int) -> LogBytes:
    return _asked(attempt, lambda agent: agent.copy_log(attempt.job_id, attempt.number, start=start))


def _asked(attempt: Attempt, ask: Callable[[Carrier], Answer]) -> Answer:
    try:
        return ask(carrier(attempt.host))
    except HostUnreachableError as error:
        raise away(attempt.host.name) from error
    except AgentRefusedError as error:
        raise UnavailableError(f"{error.message} {error.fix}".strip()) from error
