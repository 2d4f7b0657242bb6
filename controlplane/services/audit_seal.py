"""The audit log is sealed: whoever changes, removes or inserts a line in the data base is found out.

Each line gets a number and a seal, an HMAC over the line and the seal before it. Its key is made from the home's
`secret_key`, which the data base doesn't hold. The last number and seal lie in `audit_head` too, so that lines cut off
at the end are missed. Lines are sealed a moment after they are written, by a duty: a seal in the transaction itself
would make all that is audited wait for one another. Runs in the web process and in `manage.py audit`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.crypto import constant_time_compare, salted_hmac

from controlplane.models import AuditLine
from monitoring.files import write_json

AT_ONCE = 500
HEAD_FILE = "audit_head"
SALT = "controlplane.audit"


@dataclass(frozen=True)
class Finding:
    """What the seals tell: lines sealed and as they were, lines that wait for it, and the first fault or nothing."""

    sealed: int
    waiting: int
    fault: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether every sealed line is there as it was written."""
        return not self.fault


def seal_new() -> int:
    """Seals the lines that have none yet, oldest first. Returns how many."""
    done = 0
    while AuditLine.objects.filter(seal_number=None).exists():
        done += _seal_some()
    return done


def _seal_some() -> int:
    with transaction.atomic():
        number, seal = _end_of_chain()
        lines = list(AuditLine.objects.filter(seal_number=None).order_by("id")[:AT_ONCE])
        for line in lines:
            number = line.seal_number = number + 1
            seal = line.seal = _seal(line, seal)
        AuditLine.objects.bulk_update(lines, ["seal_number", "seal"])
    if lines:
        write_json(_head_path(), {"number": number, "seal": seal}, mode=0o600)
    return len(lines)


def _end_of_chain() -> tuple[int, str]:
    """The last number and seal. Where lines were cut off, those that the home knows of: the gap must stay one."""
    last = AuditLine.objects.exclude(seal_number=None).order_by("-seal_number").first()
    number, seal = (last.seal_number or 0, last.seal) if last else (0, "")
    head = _head()
    return (head["number"], head["seal"]) if head and head["number"] > number else (number, seal)


def examine() -> Finding:
    """Goes through all sealed lines, in bounded memory."""
    waiting = AuditLine.objects.filter(seal_number=None).count()
    head, before, number = _head(), "", 0
    for line in AuditLine.objects.exclude(seal_number=None).order_by("seal_number").iterator(AT_ONCE):
        number += 1
        if line.seal_number != number:
            return Finding(number - 1, waiting, f"Line {number} is missing: the next one is line {line.seal_number}.")
        if not constant_time_compare(line.seal, _seal(line, before)):
            return Finding(number - 1, waiting, f"Line {number} ({line.time:%Y-%m-%d %H:%M:%S}) was changed.")
        if head and head["number"] == number and head["seal"] != line.seal:
            return Finding(number - 1, waiting, f"Line {number} isn't the one that was sealed under this number.")
        before = line.seal
    if head and head["number"] > number:
        return Finding(number, waiting, f"Lines {number + 1} to {head['number']} were cut off at the end.")
    return Finding(number, waiting)


def exported() -> Iterator[dict[str, Any]]:
    """All lines, the oldest first, with their seals. Each slice is a question of its own: it may go out slowly."""
    last = 0
    while lines := list(AuditLine.objects.filter(id__gt=last).order_by("id")[:AT_ONCE]):
        for line in lines:
            yield {"number": line.seal_number, **_told(line), "seal": line.seal}
        last = lines[-1].pk


def _told(line: AuditLine) -> dict[str, Any]:
    return {
        "time": line.time.isoformat(), "actor": line.actor, "address": line.address, "action": line.action,
        "target": line.target, "detail": line.detail,
    }  # fmt: skip


def _seal(line: AuditLine, before: str) -> str:
    told = json.dumps([line.seal_number, before, _told(line)], sort_keys=True, ensure_ascii=False)
    return salted_hmac(SALT, told, algorithm="sha256").hexdigest()


def _head_path() -> Path:
    return Path(settings.HOME) / HEAD_FILE


def _head() -> dict[str, Any] | None:
    """The last seal as this home knows it: another home's (a web process elsewhere) may be older, never newer."""
    try:
        head: dict[str, Any] = json.loads(_head_path().read_text())
    except (FileNotFoundError, ValueError):
        return None
    return head
