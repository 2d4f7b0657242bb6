"""The thermal guard: a hot GPU loses power, then new jobs, then the ones it has. Runs in threads of the web process.

It looks at the last readings. A card enters a level at its limit and leaves it when it has cooled by the hysteresis:

1. power steps down: one profile at a time, then a tenth of the default limit at a time, down to the card's minimum;
2. placement gives the card no new job;
3. training runs on it are paused with a checkpoint, and go on by themselves once it has cooled.

A reading that is old, and a card that doesn't tell its temperature, change nothing. What the guard has done and must
undo stands in `Gpu.heat`, before it is done; nobody else writes it. There are two duties, each in a thread of its own:
levels and jobs need the data base alone and are never held up, watts are asked of agents, which may take their time.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.errors import ConflictError
from controlplane.models import Gpu, Job
from controlplane.models.access import Actor, Role
from controlplane.models.alerts import Severity
from controlplane.models.jobs import Desired, Kind, Status
from controlplane.services import alerts, bell, held_runs, jobs, power, power_agent, power_profiles, settings
from controlplane.services.access import audit
from controlplane.services.power_profiles import label

log = logging.getLogger(__name__)
GUARD = Actor(name="thermal guard", role=Role.ADMIN)
STEP, HOLD, PAUSE = 1, 2, 3
RULES = {STEP: "temperature_power", HOLD: "temperature_hold", PAUSE: "temperature_pause"}
SEVERITIES = {STEP: Severity.WARNING, HOLD: Severity.WARNING, PAUSE: Severity.CRITICAL}
STEP_SHARE = 0.10
LONGEST_WAIT_SECONDS = 600
COOLING = "See to its fans, dust and the room's air; the limits are on the page Power and heat."
NOT_STEPPED = dict.fromkeys(("watts", "before_watts", "intended_watts", "stepped_at", "tries", "reason"))
STEP_DOWN, RESTORE = "heat.step", "heat.restore"
ORDERED = settings.RISING
"""The settings of the three limits, by level."""


@dataclass(frozen=True)
class Limits:
    """The guard's settings. `celsius` by level."""

    enabled: bool
    celsius: dict[int, int]
    hysteresis: int
    step_every: timedelta

    def level(self, temperature: float, current: int) -> int:
        """The level of a card at a temperature that has been at level `current`."""
        for level in (PAUSE, HOLD, STEP):
            limit = self.celsius[level]
            if temperature >= limit or (current >= level and temperature > limit - self.hysteresis):
                return level
        return 0

    def cool_below(self, level: int) -> int:
        """Where a level ends."""
        return self.celsius[level] - self.hysteresis


def limits() -> Limits:
    """The settings in force."""
    values = settings.effective()
    return Limits(
        enabled=bool(values["thermal.enabled"]),
        celsius={
            level: int(values[key]) for level, key in zip((STEP, HOLD, PAUSE), ORDERED, strict=True)
        },
        hysteresis=int(values["thermal.hysteresis_celsius"]),
        step_every=timedelta(seconds=values["thermal.step_every_seconds"]),
    )  # fmt: skip


def configure(actor: Actor, values: dict[str, Any]) -> None:
    """Changes several of the guard's settings at once.

    Raises InvalidInputError where one can't be taken or the three limits don't rise; nothing is changed then.
    """
    settings.put_all(actor, {key: value for key, value in values.items() if settings.get(key) != value})


def hold_reason(gpu: Gpu) -> str:
    """Why a job doesn't get this card now."""
    return f"waits until {label(gpu)} has cooled below {limits().cool_below(HOLD)} °C"


# --- One look ---------------------------------------------------------------------------------------------------------


def look(now: datetime | None = None) -> None:
    """One look at all cards: their levels, and what becomes of jobs. Asks no agent."""
    now, rules = now or timezone.now(), limits()
    cards = _cards(rules, now)
    for gpu in cards:
        _judge(gpu, rules, now)
    for gpu in cards:
        if gpu.heat_level == PAUSE:
            _pause_jobs(gpu)
        elif (gpu.heat or {}).get("paused_jobs"):
            _resume_jobs(gpu)


def rule_power(now: datetime | None = None) -> None:
    """Steps down the cards that are hot, and puts back the limits of those that have cooled: asks their agents.

    Whoever was refused last comes last: an agent that is slow to say no holds up nobody's first step.
    """
    now, rules = now or timezone.now(), limits()
    for gpu in sorted(_cards(rules, now), key=lambda gpu: (gpu.heat or {}).get("tries", 0)):
        _rule_power(gpu, rules, now)


def _cards(rules: Limits, now: datetime) -> list[Gpu]:
    """Whom to look at: while the guard is switched off, those of which something is to be undone."""
    if rules.enabled:
        return power_agent.readable(now)
    return list(Gpu.objects.select_related("host").filter(Q(heat_level__gt=0) | Q(heat__isnull=False)))


def _judge(gpu: Gpu, rules: Limits, now: datetime) -> None:
    """Moves a card to the level that its temperature asks for."""
    temperature = gpu.reading.get("temperature_celsius")
    if temperature is None and rules.enabled:
        return
    before = gpu.heat_level
    level = rules.level(temperature, before) if rules.enabled and temperature is not None else 0
    if level == before:
        return
    with transaction.atomic():
        since = now if level else None
        if not Gpu.objects.filter(pk=gpu.pk, heat_level=before).update(heat_level=level, heat_since=since):
            return
        gpu.heat_level, gpu.heat_since = level, since
        audit(GUARD, "heat.level", label(gpu), before=before, after=level, temperature_celsius=temperature)
        for entered in range(before + 1, level + 1):
            _fire(gpu, entered, _words(gpu, entered, rules))
        for left in range(level + 1, before + 1):
            alerts.end(RULES[left], label(gpu))
        power.tell(gpu)
        transaction.on_commit(bell.wake)


def _words(gpu: Gpu, level: int, rules: Limits) -> str:
    what = {
        STEP: "its power is stepped down",
        HOLD: f"new jobs wait until it has cooled below {rules.cool_below(HOLD)} °C",
        # Resumed at the end of this level they wait like any new job.
        PAUSE: "training runs on it are paused with a checkpoint; they go on when it has cooled below "
        f"{rules.cool_below(HOLD)} °C",
    }[level]
    temperature = gpu.reading.get("temperature_celsius")
    return f"{label(gpu)} is at {temperature} °C (limit {rules.celsius[level]} °C): {what}."


def _fire(gpu: Gpu, level: int, message: str, fix: str = COOLING) -> None:
    alerts.fire(RULES[level], label(gpu), SEVERITIES[level], message, fix=fix, url="/power/")


def _remember(gpu: Gpu, **changes: Any) -> None:
    """Changes what `Gpu.heat` holds; what holds nothing any more becomes None. The other duty's part is left alone."""
    with transaction.atomic():
        found = Gpu.objects.select_for_update().filter(pk=gpu.pk).values_list("heat", flat=True).first()
        heat = {name: value for name, value in {**(found or {}), **changes}.items() if value not in (None, [], 0, "")}
        gpu.heat = heat or None
        Gpu.objects.filter(pk=gpu.pk).update(heat=gpu.heat)


# --- Power ------------------------------------------------------------------------------------------------------------


def _rule_power(gpu: Gpu, rules: Limits, now: datetime) -> None:
    """Does what is due. Somebody may have pressed since the card was looked at: it is judged again once it is held."""
    if _due(gpu, rules, now) is None:
        return
    with power_agent.alone_with(gpu) as row:
        due = _due(row, rules, now) if row is not None else None
        if row is None or due is None:
            return
        action, watts = due
        if watts is None:
            _remember(row, **NOT_STEPPED)
        else:
            _set(row, watts, now, action)


def _due(gpu: Gpu, rules: Limits, now: datetime) -> tuple[str, float | None] | None:
    """What is to be done with a card's limit, and the watts; RESTORE without watts: nothing is left to be undone."""
    heat = gpu.heat or {}
    temperature = gpu.reading.get("temperature_celsius")
    if gpu.heat_level >= STEP and temperature is not None and temperature >= rules.celsius[STEP]:
        target = _step_below(gpu)
        return (STEP_DOWN, target) if target is not None and _has_waited(heat, rules, now) else None
    if gpu.heat_level == 0 and "stepped_at" in heat:
        return _way_back(gpu, heat, rules, now)
    return None


def _way_back(gpu: Gpu, heat: dict[str, Any], rules: Limits, now: datetime) -> tuple[str, float | None] | None:
    """A card that has cooled gets its wish again, or what it had; one that was never stepped down is forgotten."""
    target = power_profiles.wished_watts(gpu) or heat.get("before_watts")
    if ("watts" not in heat and "intended_watts" not in heat) or target is None:
        return RESTORE, None
    return (RESTORE, float(target)) if "tries" not in heat or _has_waited(heat, rules, now) else None


def _has_waited(heat: dict[str, Any], rules: Limits, now: datetime) -> bool:
    """Whether the last step has had its time to work; after refusals the wait doubles."""
    if "stepped_at" not in heat:
        return True
    wait = rules.step_every * 2 ** min(heat.get("tries", 0), 10)
    since = now - datetime.fromisoformat(heat["stepped_at"])
    return since < timedelta(0) or since >= min(wait, timedelta(seconds=LONGEST_WAIT_SECONDS))


def _step_below(gpu: Gpu) -> float | None:
    """The next lower limit: a profile's, then a tenth of the default less; None at the minimum or where unknown.

    Lower than what is in force and than what was set: the reading may be a little older than a press.
    """
    found, expected = gpu.reading.get("power_limit_watts"), power_profiles.expected_watts(gpu)
    if found is None:
        return None
    present = found if expected is None else min(found, expected)
    known = [watts for watts in power_profiles.watts_by_profile(gpu).values() if watts is not None]
    lower = [watts for watts in known if watts < present - power_profiles.TOLERANCE_WATTS]
    if lower:
        return max(lower)
    default, minimum = gpu.reading.get("power_limit_default_watts"), gpu.reading.get("power_limit_min_watts")
    if default is None or minimum is None or present <= minimum + power_profiles.TOLERANCE_WATTS:
        return None
    return float(max(minimum, round(present - STEP_SHARE * default)))


def _set(row: Gpu, watts: float, now: datetime, action: str) -> None:
    """Asks for a limit of a card that is held, and remembers what became of it.

    What must be undone is stored before: the process may be ended between the agent's answer and the data base.
    """
    heat = row.heat or {}
    if action == STEP_DOWN:
        before = heat.get("before_watts", row.reading.get("power_limit_watts"))
        _remember(row, before_watts=before, intended_watts=watts, stepped_at=now.isoformat())
    answer = power_agent.ask_watts(row, watts)
    with transaction.atomic():
        power.store_limit(row, answer)
        if action == RESTORE and answer["set"]:
            _remember(row, **NOT_STEPPED)
        elif answer["set"]:
            _remember(row, watts=answer["applied_watts"] or watts, intended_watts=None, tries=None, reason=None)
        else:
            # A step that was refused is none to be undone.
            kept = {name: heat.get(name) for name in ("before_watts", "intended_watts")}
            _remember(row, **kept, stepped_at=now.isoformat(), tries=heat.get("tries", 0) + 1, reason=answer["reason"])
        audit(GUARD, action, label(row), **answer)
        _tell_of_step(row, answer["set"], answer["reason"], answer["fix"])
        power.tell(row)


def _tell_of_step(gpu: Gpu, is_set: bool, reason: str | None, fix: str | None) -> None:
    temperature = gpu.reading.get("temperature_celsius")
    if gpu.heat_level < STEP:
        return
    if is_set:
        limit = gpu.reading.get("power_limit_watts")
        _fire(gpu, STEP, f"{label(gpu)} is at {temperature} °C: its power limit is now {limit:g} W.")
    else:
        message = f"{label(gpu)} is at {temperature} °C, and its power can't be stepped down: {reason}"
        _fire(gpu, STEP, message, fix or COOLING)


# --- Jobs -------------------------------------------------------------------------------------------------------------


def _pause_jobs(gpu: Gpu) -> None:
    """Pauses the training runs that work on a card; who was paused by somebody else already isn't ours to resume."""
    running = Job.objects.filter(host=gpu.host, status=Status.RUNNING, kind=Kind.TRAIN, desired=Desired.RUN)
    for job in running:
        if gpu.uuid not in job.gpus:
            continue
        try:
            with transaction.atomic():  # a pause that nobody remembers would last for ever
                jobs.wish(GUARD, job.pk, Desired.PAUSE)
                _remember(gpu, paused_jobs=[*(gpu.heat or {}).get("paused_jobs", []), job.pk])
                power.tell(gpu)
        except ConflictError as error:  # it has just ended
            log.info("%s", error)


def _resume_jobs(gpu: Gpu) -> None:
    """Lets the runs go on that the guard has paused, and that nobody has paused or resumed since."""
    paused = (gpu.heat or {})["paused_jobs"]
    if (left := held_runs.resume(GUARD, paused)) != paused:
        _remember(gpu, paused_jobs=left)
        with transaction.atomic():
            power.tell(gpu)
