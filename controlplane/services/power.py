"""Power of GPUs: what the three profiles mean for a card, and setting them. Runs in the web process.

On an RTX 3090 the profiles are 220, 280 and 350 W; on any other card they are 0.63, 0.80 and 1.00 of its default limit.
What is shown is what was read back, never what was asked. Who presses last, wins: a card is changed by one at a time.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, TypeVar

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.fleet.protocol import AgentRefusedError, Carrier, HostUnreachableError, PowerAnswer
from controlplane.fleet.registry import carrier
from controlplane.live.announce import publish
from controlplane.models import Gpu
from controlplane.models.access import Actor, Role
from controlplane.models.hosts import OFFLINE_AFTER_SECONDS
from controlplane.services import alerts, health, settings
from controlplane.services.access import audit

A = TypeVar("A")
DRIFT_RULE = "power_drift"


@dataclass(frozen=True)
class Profile:
    """One power profile: its watts on an RTX 3090, and its share of the default limit on any other card."""

    name: str
    rtx_3090_watts: float
    share: float
    description: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quiet", 220, 0.63, "Least heat and noise; training takes longer."),
        Profile("normal", 280, 0.80, "Nearly full speed at clearly less power."),
        Profile("max", 350, 1.00, "The card's own default limit: full speed."),
    )
}
TOLERANCE_WATTS = 1.5
"""By how much a limit that is read may differ from the one that was set: cards and tools round."""

UNWISHED = "max"
"""A card that nobody has set runs at its own default limit, which is what `max` means."""

_RTX_3090 = re.compile(r"\bRTX 3090(?! Ti)\b", re.IGNORECASE)
_locks: dict[int, threading.Lock] = {}
_changed_at: dict[int, datetime] = {}
"""When this process last asked for a change of a card: readings that are older don't speak of it."""

BY_AGENT = "agent"
"""Who refused where the host doesn't answer, or its agent says no before it asks the card."""


class Outcome(TypedDict):
    """What became of one GPU. `set` False: `reason` and `fix` say who refused and what mends it."""

    host: str
    index: int
    uuid: str
    name: str
    profile: str
    asked_w: float | None
    power_limit_w: float | None
    clamped: bool
    set: bool
    refused_by: str | None
    reason: str | None
    fix: str | None


# --- What the profiles mean -------------------------------------------------------------------------------------------


def wanted_watts(gpu: Gpu, profile: Profile) -> float | None:
    """The profile's watts before clamping; None where the card's default limit isn't known."""
    if _RTX_3090.search(gpu.name):
        return profile.rtx_3090_watts
    default = gpu.reading.get("power_limit_default_watts")
    return None if default is None else round(default * profile.share, 1)


def profiles(gpu: Gpu) -> dict[str, float | None]:
    """Watts of each profile on this card, clamped into its allowed range."""
    return {name: _clamped(gpu, wanted_watts(gpu, profile)) for name, profile in PROFILES.items()}


def _clamped(gpu: Gpu, watts: float | None) -> float | None:
    if watts is None:
        return None
    low, high = _range(gpu)
    watts = watts if low is None else max(low, watts)
    return watts if high is None else min(high, watts)


def _range(gpu: Gpu) -> tuple[float | None, float | None]:
    return gpu.reading.get("power_limit_min_watts"), gpu.reading.get("power_limit_max_watts")


def wished_watts(gpu: Gpu) -> float | None:
    """The watts of the profile that somebody or a schedule set last; None where nobody has."""
    return profiles(gpu).get(gpu.power_profile)


def held_watts(gpu: Gpu) -> float | None:
    """The limit to which the thermal guard has stepped the card down; None where it hasn't."""
    watts = (gpu.heat or {}).get("watts")
    return None if watts is None else float(watts)


def expected_watts(gpu: Gpu) -> float | None:
    """What should be in force: the wish, or what the thermal guard holds it at. None where neither has a say."""
    known = [watts for watts in (wished_watts(gpu), held_watts(gpu)) if watts is not None]
    return min(known, default=None)


def clamped_words(gpu: Gpu) -> str:
    """That its profile's watts lie outside the card's range: "set to 366 W, the card's most (asked 400 W)". Or ""."""
    profile, answer = PROFILES.get(gpu.power_profile), gpu.power_answer or {}
    if profile is None or not answer.get("set") or answer.get("profile") != profile.name:
        return ""
    asked, given = wanted_watts(gpu, profile), wished_watts(gpu)
    if answer.get("clamped") and not answer.get("reason"):  # by the agent; with a reason the thermal guard holds it
        given = answer.get("applied_watts")
    if asked is None or given is None or abs(asked - given) <= TOLERANCE_WATTS:
        return ""
    return f"set to {given:g} W, the card's {'most' if given < asked else 'least'} (asked {asked:g} W)"


def concurrent_limits() -> dict[str, int]:
    """How many training runs one GPU takes at the same time while each profile is in force."""
    values = settings.effective()
    return {name: int(values[f"power.{name}_max_concurrent_jobs"]) for name in PROFILES}


def label(gpu: Gpu) -> str:
    """A GPU as sentences, alerts and the audit log name it."""
    return f"GPU {gpu.index} on {gpu.host.name}"


def overview(host: str | None = None, gpu: int | None = None) -> dict[str, Any]:
    """What GET /api/settings/power_profile answers. `profiles` has the first GPU's watts, each of `gpus` its own."""
    rows = health.gpus(host, gpu)
    asked = {row.power_profile for row in rows}
    first = profiles(rows[0]) if rows else dict.fromkeys(PROFILES)
    concurrent = concurrent_limits()
    return {
        "current": (asked.pop() or None) if len(asked) == 1 else None,
        "profiles": {
            name: {
                "power_limit_w": first[name], "max_concurrent_jobs": concurrent[name],
                "description": profile.description,
            }
            for name, profile in PROFILES.items()
        },
        "gpus": [gpu_facts(row) for row in rows],
    }  # fmt: skip


def gpu_facts(gpu: Gpu) -> dict[str, Any]:
    """One GPU's power: what was asked, what is in force, what is allowed, and who refused last."""
    answer = gpu.power_answer or {}
    low, high = _range(gpu)
    return {
        "host": gpu.host.name, "index": gpu.index, "uuid": gpu.uuid, "name": gpu.name,
        "profile": gpu.power_profile or None, "profiles": profiles(gpu), "asked_w": answer.get("asked_watts"),
        "expected_w": expected_watts(gpu), "power_limit_w": gpu.reading.get("power_limit_watts"),
        "power_limit_default_w": gpu.reading.get("power_limit_default_watts"),
        "power_limit_min_w": low, "power_limit_max_w": high, "power_draw_w": gpu.reading.get("power_draw_watts"),
        "set": answer.get("set"), "reason": answer.get("reason"), "fix": answer.get("fix"), "set_by": answer.get("by"),
        "set_at": gpu.power_set_at.isoformat() if gpu.power_set_at else None, "drift": gpu.power_drift,
        "persistence": persistence_facts(gpu), "heat_level": gpu.heat_level, "held_w": held_watts(gpu),
        "heat_since": gpu.heat_since.isoformat() if gpu.heat_since else None,
    }  # fmt: skip


def persistence_facts(gpu: Gpu) -> dict[str, Any]:
    """One GPU's persistence mode: as read, as wished, and who refused last."""
    answer = gpu.persistence_answer or {}
    return {
        "enabled": gpu.reading.get("persistence_mode"), "wanted": gpu.persistence_wanted, "set": answer.get("set"),
        "reason": answer.get("reason"), "fix": answer.get("fix"), "set_at": answer.get("set_at"),
    }  # fmt: skip


def tell(gpu: Gpu) -> None:
    """Tells the pages that a card's power has changed. Inside a transaction."""
    publish("hosts", "status", {"host": gpu.host.name, "gpu": gpu.uuid, "power": gpu_facts(gpu)})


# --- Setting profiles -------------------------------------------------------------------------------------------------


def request(
    actor: Actor, profile: str, *, host: str | None = None, gpu: int | None = None, strict: bool = False
) -> list[Outcome]:
    """Sets the profile on every GPU that is meant, and returns what became of each: one that refuses stops no other.

    Raises InvalidInputError for an unknown profile and, with `strict`, when a card can't take its watts (nothing is set
    then); NotFoundError where no such GPU is known.
    """
    actor.require(Role.ADMIN)
    chosen = named(profile)
    rows = health.gpus(host, gpu)
    if not rows:
        raise nobody(host, gpu)
    if strict:
        _refuse_out_of_range(rows, chosen)
    return [set_profile(actor, row, profile, strict=strict) for row in rows]


def named(profile: str, path: str = "profile") -> Profile:
    """The profile of a name. Raises InvalidInputError."""
    chosen = PROFILES.get(profile)
    if chosen is None:
        raise InvalidInputError(
            f"There is no power profile {profile!r}: choose quiet, normal or max.",
            (FieldFault(path, "quiet, normal or max"),),
        )
    return chosen


def nobody(host: str | None, gpu: int | None) -> NotFoundError | ConflictError:
    """What is raised where no card is meant."""
    if host is None and gpu is None:
        return ConflictError("No host has a GPU that NVML shows, so there is nothing to set.")
    where = (f"GPU {gpu}" if gpu is not None else "GPU") + (f" on host {host!r}" if host is not None else "")
    return NotFoundError(f"There is no {where}. GET /api/gpu lists them.")


def _refuse_out_of_range(rows: list[Gpu], profile: Profile) -> None:
    faults = []
    for row in rows:
        watts, (low, high) = wanted_watts(row, profile), _range(row)
        if watts is not None and watts != _clamped(row, watts):
            faults.append(
                f"GPU {row.index} on {row.host.name} ({row.name}) takes {low:g} to {high:g} W, not {watts:g} W"
            )
    if faults:
        raise InvalidInputError("; ".join(faults) + ". Nothing was set.", (FieldFault("profile", "out of range"),))


@contextmanager
def alone_with(gpu: Gpu) -> Iterator[Gpu | None]:
    """The row as it is now, while nobody else of this process changes the card; None where it is gone.

    Two people who press at once are served one after the other: the last one's limit stays, and is what is stored. What
    processes beside this one do at the same moment is put right by the next look at drift.
    """
    with _locks.setdefault(gpu.pk, threading.Lock()):
        yield Gpu.objects.select_related("host").filter(pk=gpu.pk).first()


def set_profile(actor: Actor, gpu: Gpu, profile: str, *, strict: bool = False) -> Outcome:
    """Sets one card's profile: asks the agent (outside of any transaction), then stores what it says."""
    actor.require(Role.ADMIN)
    chosen = named(profile)
    with alone_with(gpu) as row:
        if row is None:
            return _outcome(gpu, chosen, _refusal(gpu, 0.0, BY_AGENT, *gone(gpu)))
        return set_held(actor, row, profile, strict=strict)


def set_held(actor: Actor, row: Gpu, profile: str, *, strict: bool = False) -> Outcome:
    """The same for a card that the caller holds already (`alone_with`)."""
    actor.require(Role.ADMIN)
    chosen, restore = named(profile), puts_back()
    answer = _answer(row, chosen, strict=strict)
    with transaction.atomic():
        _store(actor, row, chosen, answer, restore)
    return _outcome(row, chosen, answer)


def _answer(gpu: Gpu, profile: Profile, *, strict: bool) -> PowerAnswer:
    watts, held = _clamped(gpu, wanted_watts(gpu, profile)), held_watts(gpu)
    if watts is None:
        return _refusal(
            gpu, 0.0, "nvml", "The card doesn't tell its default power limit.", "Its limit can't be changed by NVML."
        )
    if held is None or held >= watts:
        return ask_watts(gpu, watts, strict=strict)
    answer = ask_watts(gpu, held, strict=strict)
    if answer["set"]:
        answer["asked_watts"], answer["clamped"] = watts, True
        answer["reason"] = (
            f"The thermal guard holds it at {held:g} W; it gets its {watts:g} W when it has cooled below "
            f"{settings.get('thermal.power_step_celsius') - settings.get('thermal.hysteresis_celsius')} °C."
        )
    return answer


def _store(actor: Actor, gpu: Gpu, profile: Profile, answer: PowerAnswer, restore: bool) -> None:
    now, accepted = timezone.now(), accepted_at(gpu)
    kept = now if answer["set"] else accepted
    told = restore if answer["refused_by"] != BY_AGENT else (gpu.power_answer or {}).get("restore_told")
    values: dict[str, Any] = {
        "power_answer": {
            **answer, "profile": profile.name, "by": actor.name, "restore_told": told,
            "accepted_at": kept.isoformat() if kept else None,
        },
        "power_set_at": now,
    }  # fmt: skip
    if answer["set"]:
        values |= {"power_profile": profile.name, "power_drift": None}
        alerts.end(DRIFT_RULE, label(gpu))  # also one that was found while the card was being set
    store_limit(gpu, answer, **values)
    audit(actor, "power.set", label(gpu), profile=profile.name, **answer)
    tell(gpu)


def store_limit(gpu: Gpu, answer: PowerAnswer, **values: Any) -> None:
    """Stores columns of a card, and the limit that was read back as its reading. Inside a transaction."""
    if answer["applied_watts"] is not None:
        values["reading"] = {**gpu.reading, "power_limit_watts": answer["applied_watts"]}
    Gpu.objects.filter(pk=gpu.pk).update(**values)
    gpu.refresh_from_db()


def _outcome(gpu: Gpu, profile: Profile, answer: PowerAnswer) -> Outcome:
    watts = wanted_watts(gpu, profile)
    return Outcome(
        host=gpu.host.name, index=gpu.index, uuid=gpu.uuid, name=gpu.name, profile=profile.name,
        asked_w=_clamped(gpu, watts), power_limit_w=answer["applied_watts"],
        clamped=answer["clamped"] or _clamped(gpu, watts) != watts, set=answer["set"], refused_by=answer["refused_by"],
        reason=answer["reason"], fix=answer["fix"],
    )  # fmt: skip


# --- Asking the agent -------------------------------------------------------------------------------------------------


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
    """What the agent of a card's host answers to a change; `refused` makes an answer of a reason and what mends it.

    A refusal, a silent host and a card that vanished are answers too.
    """
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
        lambda reason, fix: _refusal(gpu, watts, BY_AGENT, reason, fix),
    )


def _explained(gpu: Gpu, error: AgentRefusedError | HostUnreachableError) -> tuple[str, str]:
    if isinstance(error, HostUnreachableError):
        return str(error), f"Start the agent of {gpu.host.name} (bin/up), then try again."
    return gone(gpu) if error.code == "unknown_gpu" else (error.message, error.fix)


def gone(gpu: Gpu) -> tuple[str, str]:
    """The reason and the remedy for a card that its host no longer finds."""
    reason = f"{label(gpu)} ({gpu.name}) has vanished: its host no longer finds it."
    return reason, "The kernel's log says why (dmesg | grep -i xid). Reset the card or restart the host."


def _refusal(gpu: Gpu, watts: float, by: str, reason: str, fix: str) -> PowerAnswer:
    return PowerAnswer(
        uuid=gpu.uuid, asked_watts=watts, applied_watts=gpu.reading.get("power_limit_watts"), clamped=False, set=False,
        method=None, refused_by=by, reason=reason, fix=fix,
    )  # fmt: skip
