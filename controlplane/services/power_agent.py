"""Asking the agent of a card's host to change it, one at a time. Runs in the web process, outside of transactions.

A refusal, a silent host and a card that vanished are answers too, with a reason and what mends it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from django.utils import timezone

from controlplane.fleet.protocol import AgentRefusedError, Carrier, HostUnreachableError, PowerAnswer
from controlplane.fleet.registry import carrier
from controlplane.models import Gpu
from controlplane.models.hosts import OFFLINE_AFTER_SECONDS
from controlplane.services import settings
from controlplane.services.power_profiles import label

A = TypeVar("A")
BY_AGENT = "agent"
"""Who refused where the host doesn't answer, or its agent says no before it asks the card."""

_locks: dict[int, threading.Lock] = {}
_changed_at: dict[int, datetime] = {}
"""When this process last asked for a change of a card: readings that are older don't speak of it."""


@contextmanager
def alone_with(gpu: Gpu) -> Iterator[Gpu | None]:
    """The row as it is now, while nobody else of this process changes the card; None where it is gone.

    Two people who press at once are served one after the other: the last one's limit stays, and is what is stored. What
    processes beside this one do at the same moment is put right by the next look at drift.
    """
    with _locks.setdefault(gpu.pk, threading.Lock()):
        yield Gpu.objects.select_related("host").filter(pk=gpu.pk).first()


def readable(now: datetime | None = None) -> list[Gpu]:
    """The cards whose reading can be relied upon: their host answers, and named them just now without a fault."""
    since = (now or timezone.now()) - timedelta(seconds=OFFLINE_AFTER_SECONDS)
    rows = Gpu.objects.select_related("host").filter(
        host__last_seen_at__gte=since, host__fault="", seen_at__gte=since
    )  # fmt: skip
    return [row for row in rows if not row.reading.get("fault")]


def accepted_at(gpu: Gpu) -> datetime | None:
    """When the card last took what it was asked for; None where it never has. A refused press is no change."""
    answer = gpu.power_answer or {}
    if answer.get("accepted_at"):
        return datetime.fromisoformat(answer["accepted_at"])
    return None if answer.get("set") is False else gpu.power_set_at


def puts_back() -> bool:
    """Whether agents are told to put back what they found when they end."""
    return bool(settings.get("power.restore_at_stop"))


def is_being_changed(gpu: Gpu) -> bool:
    """Whether somebody of this process changes the card at this moment: what is read may be of before or after it."""
    lock = _locks.get(gpu.pk)
    return lock is not None and lock.locked()


def changes(gpu: Gpu) -> list[datetime]:
    """When the card was last changed, or asked to be: by this process, and by whichever has stored it."""
    told = (gpu.persistence_answer or {}).get("set_at")
    moments = (_changed_at.get(gpu.pk), gpu.power_set_at, datetime.fromisoformat(told) if told else None)
    return [moment for moment in moments if moment is not None]


def ask(gpu: Gpu, question: Callable[[Carrier], A], refused: Callable[[str, str], A]) -> A:
    """What the agent of a card's host answers to a change; `refused` makes an answer of a reason and what mends it."""
    _changed_at[gpu.pk] = timezone.now()
    try:
        return question(carrier(gpu.host))
    except (AgentRefusedError, HostUnreachableError) as error:
        return refused(*_explained(gpu, error))
    finally:
        _changed_at[gpu.pk] = timezone.now()


def ask_watts(gpu: Gpu, watts: float, *, strict: bool = False) -> PowerAnswer:
    """Has the agent set a limit."""
    restore = puts_back()
    return ask(
        gpu,
        lambda agent: agent.set_power(gpu.uuid, watts, strict=strict, restore_at_stop=restore),
        lambda reason, fix: refusal(gpu, watts, BY_AGENT, reason, fix),
    )


def _explained(gpu: Gpu, error: AgentRefusedError | HostUnreachableError) -> tuple[str, str]:
    if isinstance(error, HostUnreachableError):
        return str(error), f"Start the agent of {gpu.host.name} (bin/up), then try again."
    return gone(gpu) if error.code == "unknown_gpu" else (error.message, error.fix)


def gone(gpu: Gpu) -> tuple[str, str]:
    """The reason and the remedy for a card that its host no longer finds."""
    reason = f"{label(gpu)} ({gpu.name}) has vanished: its host no longer finds it."
    return reason, "The kernel's log says why (dmesg | grep -i xid). Reset the card or restart the host."


def refusal(gpu: Gpu, watts: float, by: str, reason: str, fix: str) -> PowerAnswer:
    """The answer for a limit that was not set."""
    return PowerAnswer(
        uuid=gpu.uuid, asked_watts=watts, applied_watts=gpu.reading.get("power_limit_watts"), clamped=False, set=False,
        method=None, refused_by=by, reason=reason, fix=fix,
    )  # fmt: skip
