"""Whether what was set is still in force, and setting it again. Runs in a thread of the web process, every 30 s.

A limit is changed by others (nvidia-smi by hand, another tool), by a reboot, or by an agent that put back what it had
found. What is found is stored in `Gpu.power_drift`, shown, and an alert; set again only where that is wished
(`power.reconcile_set_again`). Whoever refuses, or changes it back again and again, is asked less and less often.
"""

from datetime import datetime, timedelta
from typing import Any, TypedDict

from django.db import transaction
from django.utils import timezone

from controlplane.models import Gpu
from controlplane.models.access import SYSTEM
from controlplane.models.alerts import Severity
from controlplane.models.hosts import OFFLINE_AFTER_SECONDS
from controlplane.services import alerts, persistence, power, power_agent, settings
from controlplane.services.access import audit
from controlplane.services.power_agent import BY_AGENT
from controlplane.services.power_profiles import TOLERANCE_WATTS, expected_watts, label

SETTLE_SECONDS = 5
"""A reading may be older than a change by this much: it says nothing about it yet."""

FIRST_WAIT_SECONDS = 30
LONGEST_WAIT_SECONDS = 3600
CALM_SECONDS = 600
"""A limit that has held for so long is set again at once the next time."""

SHOWN_HOURS = 24


class Drift(TypedDict):
    """Times are ISO 8601. `over_at`: when it was found right again; `reason`: who refused to set it again."""

    found_watts: float
    wanted_watts: float
    since: str
    set_again: bool
    tries: int
    tried_at: str | None
    reason: str | None
    over_at: str | None


def reconcile(now: datetime | None = None) -> None:
    """One look at every card whose reading can be relied upon."""
    now, again = now or timezone.now(), bool(settings.get("power.reconcile_set_again"))
    restore = power_agent.puts_back()
    for gpu in power_agent.readable(now):
        _look_at_limit(gpu, again, now)
        _look_at_persistence(gpu, again, now)
        _tell_restore(gpu, restore)


def sentence(gpu: Gpu) -> str:
    """The drift as pages and alerts tell it: "280 W wished, 350 W found since 14:02, set again". Empty without one."""
    drift: Drift | None = gpu.power_drift
    if drift is None:
        return ""
    since = timezone.localtime(datetime.fromisoformat(drift["since"]))
    end = "set again" if drift["set_again"] else "not set again" + (f": {drift['reason']}" if drift["reason"] else "")
    return f"{drift['wanted_watts']:g} W wished, {drift['found_watts']:g} W found since {since:%H:%M}, {end}"


def _settled(gpu: Gpu) -> bool:
    """Whether the card's reading is surely later than its last changes (or the clock has been put back since)."""
    if power_agent.is_being_changed(gpu):
        return False
    ages = [(gpu.seen_at - moment).total_seconds() for moment in power_agent.changes(gpu)]
    return all(age >= SETTLE_SECONDS or age < -OFFLINE_AFTER_SECONDS for age in ages)


def _is_due(tries: int, tried_at: str | None, now: datetime) -> bool:
    """Whether to try again: 30 s after the first time, then twice as long each time, at most an hour."""
    if tried_at is None or tries == 0:
        return True
    since = now - datetime.fromisoformat(tried_at)
    wait = min(FIRST_WAIT_SECONDS * 2 ** min(tries - 1, 10), LONGEST_WAIT_SECONDS)
    return since < timedelta(0) or since >= timedelta(seconds=wait)


# --- The limit --------------------------------------------------------------------------------------------------------


def _look_at_limit(gpu: Gpu, again: bool, now: datetime) -> None:
    wanted, found = expected_watts(gpu), gpu.reading.get("power_limit_watts")
    drift: Drift | None = gpu.power_drift
    if wanted is None and drift is not None:
        _clear(gpu)
    if wanted is None or found is None or not _settled(gpu):
        return
    if abs(found - wanted) <= TOLERANCE_WATTS:
        _right(gpu, drift, now)
        return
    drift = _note(gpu, drift, found, wanted, now)
    if drift is not None and again and _is_due(drift["tries"], drift["tried_at"], now):
        _set_again(gpu, drift, wanted, now)


def _clear(gpu: Gpu) -> None:
    """Nothing is wished of the card any more (the guard has put back what it had, say): so nothing is wrong."""
    with transaction.atomic():
        if _put(gpu, None):
            alerts.end(power.DRIFT_RULE, label(gpu))
            power.tell(gpu)


def _right(gpu: Gpu, drift: Drift | None, now: datetime) -> None:
    """What was wished is in force. A drift that was mended stays to be seen for a day, one that mended itself goes."""
    if drift is None:
        return
    kept: Drift | None = drift
    if drift["over_at"] is None:
        kept = {**drift, "over_at": now.isoformat()} if drift["set_again"] else None
    elif now - datetime.fromisoformat(drift["over_at"]) > timedelta(hours=SHOWN_HOURS):
        kept = None
    if kept == drift:
        return
    with transaction.atomic():
        if _put(gpu, kept):
            alerts.end(power.DRIFT_RULE, label(gpu))
            power.tell(gpu)


def _note(gpu: Gpu, drift: Drift | None, found: float, wanted: float, now: datetime) -> Drift | None:
    """The drift as it stands now; None where somebody has pressed in between."""
    is_known = drift is not None and drift["over_at"] is None
    if drift is not None and is_known and (drift["found_watts"], drift["wanted_watts"]) == (found, wanted):
        return drift
    tries, tried_at = 0, None
    if drift is not None and not _has_held(drift, now):
        tries, tried_at = drift["tries"], drift["tried_at"]
    fresh = Drift(
        found_watts=found, wanted_watts=wanted, since=drift["since"] if drift and is_known else now.isoformat(),
        set_again=False, tries=tries, tried_at=tried_at, reason=None, over_at=None,
    )  # fmt: skip
    with transaction.atomic():
        if not _put(gpu, fresh):
            return None
        _fire(gpu)
        power.tell(gpu)
    return fresh


def _has_held(drift: Drift, now: datetime) -> bool:
    over_at = drift["over_at"]
    return over_at is not None and now - datetime.fromisoformat(over_at) > timedelta(seconds=CALM_SECONDS)


def _set_again(gpu: Gpu, drift: Drift, wanted: float, now: datetime) -> None:
    with power_agent.alone_with(gpu) as row:
        if row is None or row.power_set_at != gpu.power_set_at or expected_watts(row) != wanted:
            return  # somebody has pressed, or the thermal guard has stepped, since we looked
        answer = power_agent.ask_watts(row, wanted)
        tried: Drift = {
            **drift, "set_again": answer["set"], "reason": answer["reason"], "tries": drift["tries"] + 1,
            "tried_at": now.isoformat(),
        }  # fmt: skip
        with transaction.atomic():
            power.store_limit(row, answer, power_drift=tried)
            audit(SYSTEM, "power.set_again", label(row), found_watts=drift["found_watts"], **answer)
            _fire(row, answer["fix"])
            power.tell(row)


def _put(gpu: Gpu, drift: Drift | None) -> bool:
    """Stores a drift unless somebody has set the card since it was read."""
    gpu.power_drift = drift
    return bool(Gpu.objects.filter(pk=gpu.pk, power_set_at=gpu.power_set_at).update(power_drift=drift))


def _fire(gpu: Gpu, fix: str | None = None) -> None:
    severity = Severity.INFO if (gpu.power_drift or {}).get("set_again") else Severity.WARNING
    advice = fix or "Something else sets this card's limit: another tool, nvidia-smi by hand, or a reboot."
    alerts.fire(power.DRIFT_RULE, label(gpu), severity, f"{label(gpu)}: {sentence(gpu)}.", fix=advice, url="/power/")


# --- Persistence mode -------------------------------------------------------------------------------------------------


def _look_at_persistence(gpu: Gpu, again: bool, now: datetime) -> None:
    wanted, found = gpu.persistence_wanted, gpu.reading.get("persistence_mode")
    answer: dict[str, Any] = gpu.persistence_answer or {}
    if wanted is None or found is None or not _settled(gpu):
        return
    subject = f"persistence mode of {label(gpu)}"
    if found == wanted:
        if answer.get("found_at"):
            with transaction.atomic():
                persistence.store(gpu, {**answer, "found_at": None})
                alerts.end(power.DRIFT_RULE, subject)
                power.tell(gpu)
        return
    tries = 0 if answer.get("found_at") is None else answer.get("tries", 0)
    is_new = answer.get("found_at") is None
    if not is_new and not (again and _is_due(tries, answer.get("tried_at"), now)):
        return
    if again:
        _persist_again(gpu, wanted, tries, now)
    else:
        with transaction.atomic():
            persistence.store(gpu, {**answer, "found_at": now.isoformat(), "enabled": found})
            _fire_persistence(gpu, subject, wanted, "not set again")


def _persist_again(gpu: Gpu, wanted: bool, tries: int, now: datetime) -> None:
    with power_agent.alone_with(gpu) as row:
        if row is None or row.persistence_answer != gpu.persistence_answer or row.persistence_wanted != wanted:
            return
        restore, answer = power_agent.puts_back(), persistence.ask(row, wanted)
        moment = now.isoformat()
        stored = {**answer, "by": SYSTEM.name, "set_at": moment, "found_at": moment, "tried_at": moment,
                  "tries": tries + 1, "restore_told": restore}  # fmt: skip
        with transaction.atomic():
            persistence.store(row, stored)
            audit(SYSTEM, "power.persistence_again", label(row), **answer)
            said = "set again" if answer["set"] else f"not set again: {answer['reason']}"
            _fire_persistence(row, f"persistence mode of {label(row)}", wanted, said)


def _fire_persistence(gpu: Gpu, subject: str, wanted: bool, end: str) -> None:
    words = {True: "on", False: "off"}
    message = f"{label(gpu)}: persistence mode {words[wanted]} wished, {words[not wanted]} found, {end}."
    severity = Severity.INFO if end == "set again" else Severity.WARNING
    alerts.fire(power.DRIFT_RULE, subject, severity, message, fix="A driver that was reloaded forgets it.",
                url="/power/")  # fmt: skip
    power.tell(gpu)


# --- Putting back at the agent's end ----------------------------------------------------------------------------------


def _tell_restore(gpu: Gpu, restore: bool) -> None:
    """Lets the agent know that `power.restore_at_stop` has changed since it was told, by asking for what it has again.

    Only where the card has what was asked for: nothing but the agent's memory changes.
    """
    limit, mode = gpu.power_answer or {}, gpu.persistence_answer or {}
    watts, found = expected_watts(gpu), gpu.reading.get("power_limit_watts")
    is_right = watts is not None and found is not None and abs(found - watts) <= TOLERANCE_WATTS
    has_mode = gpu.persistence_wanted is not None and gpu.reading.get("persistence_mode") == gpu.persistence_wanted
    tells_limit = is_right and limit.get("set") and limit.get("restore_told") is not restore
    tells_mode = has_mode and mode.get("set") and mode.get("restore_told") is not restore
    if not (tells_limit or tells_mode) or not _settled(gpu):
        return
    with power_agent.alone_with(gpu) as row:
        if row is None or expected_watts(row) != watts or row.persistence_wanted != gpu.persistence_wanted:
            return  # somebody has pressed since we looked, and has told it
        if tells_limit and watts is not None and power_agent.ask_watts(row, watts)["refused_by"] != BY_AGENT:
            _note_told(row, "power_answer", restore)
        wanted = row.persistence_wanted
        if tells_mode and wanted is not None and persistence.ask(row, wanted)["refused_by"] != BY_AGENT:
            _note_told(row, "persistence_answer", restore)


def _note_told(row: Gpu, column: str, restore: bool) -> None:
    Gpu.objects.filter(pk=row.pk).update(**{column: {**(getattr(row, column) or {}), "restore_told": restore}})
