"""Schedules of power profiles: made, changed, and carried out. Runs in the web process; the duty in a thread of it.

What a card should have is worked out from the schedules and the time alone: nothing is lost while the server is down,
and a clock that jumps is simply another time. A schedule acts at its edges (where its window begins and ends), so a
profile that somebody sets by hand stays until the next one. Of windows that overlap the narrower scope wins (a GPU
before its host before all), then the one made later. Times are local (`TIME_ZONE`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.errors import FieldFault, InvalidInputError, NotFoundError
from controlplane.live.announce import publish
from controlplane.models import Gpu, Host, PowerSchedule
from controlplane.models.access import Actor, Role
from controlplane.models.alerts import Severity
from controlplane.moments import iso
from controlplane.services import alerts, health, power, power_agent, power_profiles
from controlplane.services.access import audit
from controlplane.services.power_profiles import label

RULE = "power_schedule"
RETRY_SECONDS = 600
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
FUTURE_SECONDS = 60


@dataclass(frozen=True)
class Window:
    """One time that a schedule is in force, from `begins` until just before `ends`."""

    schedule: PowerSchedule
    begins: datetime
    ends: datetime

    @property
    def rank(self) -> tuple[int, int]:
        """Which of two windows wins: the narrower scope, then the later schedule."""
        scope = 2 if self.schedule.gpu_id else 1 if self.schedule.host_id else 0
        return scope, self.schedule.pk


@dataclass(frozen=True)
class Verdict:
    """What a card should have by its schedules, and since which edge."""

    schedule: PowerSchedule
    profile: str
    since: datetime


# --- What is due ------------------------------------------------------------------------------------------------------


def windows(schedule: PowerSchedule, now: datetime) -> list[Window]:
    """The schedule's windows of the last eight days and the coming eight, as far as they count."""
    today = timezone.localtime(now, timezone.get_default_timezone()).date()
    found = []
    for back in range(-8, 9):
        day = today + timedelta(days=back)
        if day.weekday() not in schedule.days:
            continue
        last = day + timedelta(days=1) if schedule.until <= schedule.begins else day
        begins = max(_moment(day, schedule.begins), schedule.effective_from)
        ends = _moment(last, schedule.until)
        if begins < ends:
            found.append(Window(schedule, begins, ends))
    return found


def _moment(day: date, clock: time) -> datetime:
    """When the clocks show a time; one that a change to summer time skips is the moment of the change."""
    zone = timezone.get_default_timezone()
    wall = datetime.combine(day, clock)
    while _shown(wall.replace(tzinfo=zone).astimezone(UTC)) != wall:
        wall += timedelta(minutes=1)
    return wall.replace(tzinfo=zone)


def _shown(moment: datetime) -> datetime:
    """What the clocks show at a moment."""
    return moment.astimezone(timezone.get_default_timezone()).replace(tzinfo=None)


def covers(schedule: PowerSchedule, gpu: Gpu) -> bool:
    """Whether a schedule is about a card."""
    if schedule.gpu_id is not None:
        return schedule.gpu_id == gpu.pk
    return schedule.host_id is None or schedule.host_id == gpu.host_id


def verdict(schedules: Iterable[PowerSchedule], gpu: Gpu, now: datetime) -> Verdict | None:
    """What the card should have now; None where no schedule has had an edge yet."""
    known = [window for row in schedules if covers(row, gpu) for window in windows(row, now)]
    edges = sorted({moment for window in known for moment in (window.begins, window.ends) if moment <= now})
    before: tuple[int, str] | None = None
    found: Verdict | None = None
    for edge in edges:
        row, profile = _winner(known, edge)
        if (row.pk, profile) != before or _begins_anew(known, row, edge):
            found, before = Verdict(row, profile, edge), (row.pk, profile)
    return found


def _winner(known: Sequence[Window], at: datetime) -> tuple[PowerSchedule, str]:
    active = [window for window in known if window.begins <= at < window.ends]
    if active:
        schedule = max(active, key=lambda window: window.rank).schedule
        return schedule, schedule.profile
    over = [window for window in known if window.ends <= at]
    schedule = max(over, key=lambda window: (window.ends, window.rank)).schedule
    return schedule, schedule.profile_after


def _begins_anew(known: Sequence[Window], schedule: PowerSchedule, at: datetime) -> bool:
    """Whether the winner has an edge of its own here (the same profile again: a press by hand is over)."""
    return any(at in (window.begins, window.ends) for window in known if window.schedule.pk == schedule.pk)


def apply_due(now: datetime | None = None) -> None:
    """Sets on every card what its schedules ask for since it was set last. Cards that can't be asked now come later."""
    now = now or timezone.now()
    rows = list(PowerSchedule.objects.filter(is_enabled=True).select_related("host", "gpu"))
    _mark(rows, now)
    if not rows:
        return
    for gpu in power_agent.readable():
        due = verdict(rows, gpu, now)
        if due is not None and _is_due(gpu, due, now):
            _carry_out(gpu, rows)


def _is_due(gpu: Gpu, due: Verdict, now: datetime) -> bool:
    """Whether nobody has set the card since the edge. A press that was refused is none; who refused is asked later."""
    accepted, latest = power_agent.accepted_at(gpu), now + timedelta(seconds=FUTURE_SECONDS)
    if accepted is not None and due.since <= accepted <= latest:  # later ones: the clock has been put back since
        return False
    tried, answer = gpu.power_set_at, gpu.power_answer or {}
    was_refused = answer.get("set") is False and answer.get("by") == _actor(due.schedule).name
    if tried is None or not was_refused or not due.since <= tried <= latest:
        return True
    return now - tried >= timedelta(seconds=RETRY_SECONDS)


def _carry_out(gpu: Gpu, rows: list[PowerSchedule]) -> None:
    """Sets what is due, judged once more: setting the cards before this one has taken its time, and people press."""
    with power_agent.alone_with(gpu) as row:
        now = timezone.now()
        due = verdict(rows, row, now) if row is not None else None
        if row is None or due is None or not _is_due(row, due, now):
            return
        outcome = power.set_held(_actor(due.schedule), row, due.profile)
    if outcome["set"]:
        alerts.end(RULE, label(gpu))
        return
    message = f"The schedule {describe(due.schedule)} can't set {due.profile} on {label(gpu)}: "
    alerts.fire(
        RULE, label(gpu), Severity.WARNING, message + str(outcome["reason"]), fix=outcome["fix"] or "",
        url="/power/",
    )  # fmt: skip


def _actor(schedule: PowerSchedule) -> Actor:
    return Actor(name=f"schedule {schedule.pk}", role=Role.ADMIN)


def _mark(rows: list[PowerSchedule], now: datetime) -> None:
    """Notes which schedules are in force, and tells the pages where that has changed."""
    for row in rows:
        current = current_window(row, now)
        if (current is None) == (row.applied_since is None):
            continue
        with transaction.atomic():
            PowerSchedule.objects.filter(pk=row.pk).update(applied_since=current.begins if current else None)
            publish("hosts", "status", {"schedule": row.pk})


def current_window(schedule: PowerSchedule, now: datetime) -> Window | None:
    """The window that is open now, if any."""
    return next((window for window in windows(schedule, now) if window.begins <= now < window.ends), None)


def next_edge(schedule: PowerSchedule, now: datetime | None = None) -> datetime | None:
    """When it begins or ends next; None while it is switched off."""
    now = now or timezone.now()
    moments = [moment for window in windows(schedule, now) for moment in (window.begins, window.ends)]
    return min((moment for moment in moments if moment > now), default=None) if schedule.is_enabled else None


# --- Making and changing them -----------------------------------------------------------------------------------------


def list_schedules() -> list[PowerSchedule]:
    """All schedules, by the time at which they begin."""
    return list(PowerSchedule.objects.select_related("host", "gpu", "gpu__host"))


def get(schedule_id: int) -> PowerSchedule:
    """The schedule. Raises NotFoundError."""
    row = PowerSchedule.objects.select_related("host", "gpu", "gpu__host").filter(pk=schedule_id).first()
    if row is None:
        raise NotFoundError(f"There is no power schedule {schedule_id}. GET /api/settings/power_schedules lists them.")
    return row


def create(actor: Actor, values: dict[str, Any]) -> PowerSchedule:
    """Makes a schedule of `profile`, `profile_after`, `begins` and `until` ("HH:MM" or a time), `days` (0 is Monday),
    `host` (a name), `gpu` (an index on that host), `is_enabled`; what is left out has its default.

    Raises InvalidInputError and NotFoundError (the host or GPU).
    """
    actor.require(Role.ADMIN)
    fields = _checked({
        "profile_after": "normal", "days": list(range(7)), "host": None, "gpu": None, "is_enabled": True, **values,
    })  # fmt: skip
    with transaction.atomic():
        row = PowerSchedule.objects.create(**fields, created_by=actor.name, effective_from=timezone.now())
        audit(actor, "power_schedule.create", f"power schedule {row.pk}", schedule=describe(row))
        publish("hosts", "status", {"schedule": row.pk})
    return get(row.pk)


def update(actor: Actor, schedule_id: int, changes: dict[str, Any]) -> PowerSchedule:
    """Changes some values of a schedule; from now on only its coming edges count, and its window where it is open."""
    actor.require(Role.ADMIN)
    row = get(schedule_id)
    present = {
        "profile": row.profile, "profile_after": row.profile_after, "begins": row.begins, "until": row.until,
        "days": row.days, "host": row.host.name if row.host else None, "gpu": row.gpu.index if row.gpu else None,
        "is_enabled": row.is_enabled,
    }  # fmt: skip
    fields = _checked({**present, **changes})
    with transaction.atomic():
        PowerSchedule.objects.filter(pk=schedule_id).update(
            **fields, effective_from=timezone.now(), applied_since=None
        )  # fmt: skip
        row = get(schedule_id)
        audit(actor, "power_schedule.update", f"power schedule {row.pk}", schedule=describe(row),
              is_enabled=row.is_enabled)  # fmt: skip
        publish("hosts", "status", {"schedule": row.pk})
    return row


def delete(actor: Actor, schedule_id: int) -> None:
    """Forgets a schedule. Cards keep the profile that they have."""
    actor.require(Role.ADMIN)
    with transaction.atomic():
        row = get(schedule_id)
        audit(actor, "power_schedule.delete", f"power schedule {row.pk}", schedule=describe(row))
        row.delete()
        publish("hosts", "status", {"schedule": schedule_id})


def facts(row: PowerSchedule) -> dict[str, Any]:
    """A schedule as the API tells it."""
    edge = next_edge(row)
    return {
        "id": row.pk, "host": row.host.name if row.host else None, "gpu": row.gpu.index if row.gpu else None,
        "profile": row.profile, "profile_after": row.profile_after, "begins": f"{row.begins:%H:%M}",
        "until": f"{row.until:%H:%M}", "days": row.days, "is_enabled": row.is_enabled,
        "in_force": row.is_enabled and current_window(row, timezone.now()) is not None,
        "next_change_at": iso(edge), "created_by": row.created_by,
        "created_at": row.created_at.isoformat(),
    }  # fmt: skip


def scope(row: PowerSchedule) -> str:
    """Which cards it is about, in words."""
    if row.gpu is not None:
        return label(row.gpu)
    return f"every GPU of {row.host.name}" if row.host is not None else "every GPU"


def days_in_words(row: PowerSchedule) -> str:
    """Its days in words."""
    known = {(0, 1, 2, 3, 4, 5, 6): "every day", (0, 1, 2, 3, 4): "Mon to Fri", (5, 6): "Sat and Sun"}
    return known.get(tuple(row.days)) or ", ".join(DAYS[day] for day in row.days)


def describe(row: PowerSchedule) -> str:
    """The whole schedule in words: "quiet 22:00 to 07:00, every day, every GPU"."""
    return f"{row.profile} {row.begins:%H:%M} to {row.until:%H:%M}, {days_in_words(row)}, {scope(row)}"


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The model's fields. Raises InvalidInputError, naming the field."""
    power_profiles.named(str(values.get("profile")))
    power_profiles.named(str(values["profile_after"]), "profile_after")
    begins, until = _time(values.get("begins"), "begins"), _time(values.get("until"), "until")
    if begins == until:
        raise InvalidInputError(
            f"It begins and ends at {begins:%H:%M}: that is no time at all. For a whole day, set the profile by hand.",
            (FieldFault("until", "another time than the beginning"),),
        )
    host, gpu = _place(values["host"], values["gpu"])
    return {
        "profile": values["profile"], "profile_after": values["profile_after"], "begins": begins, "until": until,
        "days": _days(values["days"]), "host": host, "gpu": gpu, "is_enabled": bool(values["is_enabled"]),
    }  # fmt: skip


def _time(value: Any, path: str) -> time:
    try:
        found = value if isinstance(value, time) else time.fromisoformat(str(value))
    except ValueError:
        message = f"{value!r} is no time of day. Write it like 22:00."
        raise InvalidInputError(message, (FieldFault(path, "a time of day, 22:00"),)) from None
    return found.replace(second=0, microsecond=0, tzinfo=None)


def _days(value: Any) -> list[int]:
    fault = (FieldFault("days", "weekdays, 0 (Monday) to 6 (Sunday), at least one"),)
    try:
        days = sorted({int(day) for day in value})
    except (TypeError, ValueError):
        raise InvalidInputError(f"{value!r} are no weekdays: give numbers from 0 (Monday) to 6.", fault) from None
    if not days or days[0] < 0 or days[-1] > 6:
        raise InvalidInputError("A schedule needs at least one weekday, from 0 (Monday) to 6 (Sunday).", fault)
    return days


def _place(host: Any, gpu: Any) -> tuple[Host | None, Gpu | None]:
    if host is None or host == "":
        if gpu is not None:
            raise InvalidInputError("Say on which host that GPU is.", (FieldFault("host", "the GPU's host"),))
        return None, None
    if gpu is None:
        found = Host.objects.filter(name=host).first()
        if found is None:
            raise NotFoundError(f"There is no host {host!r}. GET /api/hosts lists them.")
        return found, None
    cards = health.gpus(str(host), int(gpu))
    if not cards:
        raise NotFoundError(f"There is no GPU {gpu} on host {host!r}. GET /api/gpu lists them.")
    return cards[0].host, cards[0]
