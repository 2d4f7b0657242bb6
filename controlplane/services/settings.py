"""Settings that an admin changes while the product runs. Runs in the web process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from controlplane.errors import FieldFault, InvalidInputError, NotFoundError
from controlplane.models import Setting
from controlplane.models.access import Actor, Role
from controlplane.services.access import audit
from controlplane.services.snapshot_address import check_address, check_time


@dataclass(frozen=True)
class Definition:
    """One setting: its default tells its type; `minimum` and `maximum` bound a number."""

    default: bool | int | float | str
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    check: Callable[[Any], None] | None = None
    """Raises InvalidInputError for a value that can't be."""


def check_on_loss(word: str) -> None:
    """Raises InvalidInputError."""
    if word not in ON_LOSS:
        raise InvalidInputError(f"{word!r} is none of {' and '.join(ON_LOSS)}.")


ON_LOSS = ("wait", "resume")

DEFAULTS: dict[str, Definition] = {
    "datasets.max_fault_fraction": Definition(
        0.01, "A dataset with a larger share of faulty rows is rejected; fewer are skipped and said.", "", 0, 1
    ),
    "datasets.token_sample_rows": Definition(
        5000, "How many rows of a large file are tokenised for its statistics.", "rows", 100, 1_000_000
    ),
    "datasets.max_unpacked_bytes": Definition(
        64 << 30, "To how many bytes a packed file, or the rows of a table, may unpack.", "bytes", 1 << 20, 1 << 50
    ),
    "jobs.max_concurrent_train": Definition(1, "Training runs at the same time on a host without a GPU.", "", 1, 64),
    "jobs.max_concurrent_light": Definition(2, "Fetch and validation jobs at the same time on a host.", "", 1, 64),
    "fleet.first_meeting_port": Definition(
        29400, "The first of a hundred ports at which the processes of runs on several hosts meet.", "", 1024, 65400
    ),
    "inbox.enabled": Definition(True, "Whether files that are put into the folder inbox are taken."),
    "inbox.template": Definition(
        "", "The run template that a file from the inbox starts a run with when it passes; empty: it becomes a dataset."
    ),
    "inbox.settle_seconds": Definition(
        5.0, "How long a file in the inbox must not have changed before it is taken.", "s", 0, 3600
    ),
    "inbox.rescan_seconds": Definition(
        10.0, "How often the inbox is looked through, whatever the system tells of it.", "s", 1, 3600
    ),
    "runs.silent_hours": Definition(
        6.0, "After how long without a point a run of a script elsewhere has failed; its next points take it up again.",
        "h", 0.1, 8760,
    ),
    "queue.paused_because": Definition(
        "", "Why no training run starts (the page Queue says so and has the button); empty: they start."
    ),
    "queue.continue_on_error": Definition(
        True, "Whether the queue goes on when a training run has failed; otherwise it is paused then."
    ),
    "queue.foreign_memory_gib": Definition(
        2.0, "A run doesn't start on a GPU of which programs that no job started hold more memory.", "GiB", 0, 1000
    ),
    "jobs.max_failures": Definition(3, "How often a job that died is started again before it counts as failed.",
                                    "", 1, 100),
    "uploads.max_bytes": Definition(64 << 30, "The largest file that may be uploaded.", "bytes", 1 << 20, 1 << 50),
    "serving.check_prompt": Definition(
        "Say hello.", "What an engine is asked before it takes the place of the active one."
    ),
    "generate.max_concurrent": Definition(
        4, "How many generations (POST /api/generate) one model answers at a time, beside its chats.", "", 1, 64
    ),
    "generate.max_waiting": Definition(
        1000, "How many generations may wait; from then on a new one is refused with 503.", "", 1, 100_000
    ),
    "generate.keep_days": Definition(
        30, "How long a generation that has ended is kept with its text; 0: for good.", "days", 0, 36500
    ),
    "serving.ready_timeout_seconds": Definition(300, "How long an engine may take to become ready.", "s", 10, 7200),
    "serving.wait_seconds": Definition(
        120, "How long a request waits for an engine that is on its way before it is refused with 503.", "s", 0, 3600
    ),
    "serving.max_waiting": Definition(
        64, "How many requests may wait for engines at once; from then on they are refused with 503.", "", 0, 10_000
    ),
    "chat.keep_days": Definition(
        0, "How long a conversation of the chat page is kept after its last message; 0: for good.", "days", 0, 36500
    ),
    "usage.keep_minutes_days": Definition(
        14, "How long the speed of answers is kept by the minute; by the day it is kept for good.", "days", 1, 365
    ),
    "storage.resume_when_room": Definition(
        True, "Whether a run that paused before the disk was full goes on by itself when there is room again."
    ),
    "snapshots.address": Definition(
        "", "Where snapshots go: a folder, or an address of fsspec's like s3://bucket/folder. Empty: none is taken.",
        check=check_address,
    ),
    "snapshots.at": Definition(
        "03:30", "At which time of day (local) a snapshot is taken. Empty: only when asked.", check=check_time
    ),
    "snapshots.keep": Definition(7, "How many snapshots are kept.", "", 1, 1000),
    "snapshots.datasets": Definition(True, "Whether a snapshot holds the datasets that are ready."),
    "snapshots.database": Definition(True, "Whether a snapshot holds a copy of the data base, where that is SQLite."),
    "clean.min_age_hours": Definition(
        24, "How old what nobody owns must be before cleaning takes it away.", "h", 1, 8760
    ),
    "clean.archive_logs_days": Definition(
        7, "After how many days the logs of attempts that others followed are compressed.", "days", 1, 3650
    ),
    "clean.rejected_days": Definition(
        30, "After how many days cleaning takes rejected files of the inbox away.", "days", 1, 3650
    ),
    "energy.price_per_kwh": Definition(0.0, "What a kWh costs; 0: no cost is shown.", "", 0, 1000),
    "energy.currency": Definition("EUR", "The currency of energy.price_per_kwh."),
    "hosts.max_clock_skew_seconds": Definition(
        2.0, "How far a host's clock may be from the web server's before its page warns.", "s", 0.1, 3600
    ),
    "files.cache_limit_gib": Definition(
        500.0, "How much of datasets, models and checkpoints a host with a home of its own holds; what was not used "
        "for longest goes first. 0: as much as its disk has room for.", "GiB", 0, 1_000_000
    ),
    "fleet.lost_after_seconds": Definition(
        60, "How long a host may be silent before its jobs count as lost.", "s", 15, 86_400
    ),
    "fleet.on_host_loss": Definition(
        "wait", "What becomes of a lost host's jobs, where its page doesn't say: wait for it, or resume elsewhere.",
        check=check_on_loss,
    ),
    "telemetry.keep_1s_hours": Definition(1, "How long figures of hosts are kept every second.", "h", 1, 168),
    "telemetry.keep_10s_hours": Definition(24, "How long they are kept every ten seconds.", "h", 1, 2160),
    "telemetry.keep_60s_days": Definition(30, "How long they are kept every minute.", "days", 1, 3650),
    "power.quiet_max_concurrent_jobs": Definition(
        1, "Training runs that one GPU takes at the same time while it is set to quiet; 0: none starts.", "", 0, 16
    ),
    "power.normal_max_concurrent_jobs": Definition(
        1, "Training runs that one GPU takes at the same time while it is set to normal.", "", 0, 16
    ),
    "power.max_max_concurrent_jobs": Definition(
        1, "Training runs that one GPU takes at the same time while it is set to max, or was never set.", "", 0, 16
    ),
    "power.restore_at_stop": Definition(
        False, "Whether an agent that stops puts back the power limits and persistence modes it found."
    ),
    "power.reconcile_set_again": Definition(
        True, "Whether a power limit or persistence mode that something else has changed is set again."
    ),
    "thermal.enabled": Definition(True, "Whether the thermal guard acts on hot GPUs."),
    "thermal.power_step_celsius": Definition(83, "From here on a GPU's power is stepped down.", "°C", 40, 120),
    "thermal.hold_jobs_celsius": Definition(87, "From here on a GPU is given no new jobs.", "°C", 40, 120),
    "thermal.pause_jobs_celsius": Definition(91, "From here on a GPU's training runs are paused.", "°C", 40, 120),
    "thermal.hysteresis_celsius": Definition(
        5, "How far a GPU must have cooled below a limit before it counts as cool again.", "°C", 1, 30
    ),
    "thermal.step_every_seconds": Definition(
        30, "How long a step of power is given to work before the next one.", "s", 5, 600
    ),
    "alerts.off": Definition("", "Rules of alerts that are switched off, by their keys, with commas between them."),
    "alerts.disk_free_percent": Definition(
        5.0, "An alert is made when less of the disk with a host's home folder is free.", "%", 0, 100
    ),
    "alerts.disk_free_gib": Definition(
        10.0, "An alert is made when less room is left on the disk with a host's home folder.", "GiB", 0, 1e6
    ),
    "alerts.queue_stuck_minutes": Definition(
        30, "How long jobs may wait, while nothing before them makes progress, until an alert is made.", "min", 1, 10080
    ),
    "alerts.inbox_stuck_minutes": Definition(
        60, "How long a file in the inbox may not be taken until an alert is made.", "min", 1, 10080
    ),
    "alerts.engine_down_seconds": Definition(
        60, "How long the active engine may not answer until an alert is made.", "s", 5, 86400
    ),
    "alerts.host_offline_seconds": Definition(
        60, "How long a host's agent may not answer until an alert is made.", "s", 15, 86400
    ),
    "alerts.remind_minutes": Definition(
        60, "How often a critical alert that nobody has acknowledged is sent again; 0: never.", "min", 0, 10080
    ),
    "alerts.keep_days": Definition(90, "How long alerts that have ended are kept.", "days", 1, 3650),
    "alerts.public_url": Definition(
        "", "The address of these pages, as in https://panel.example: messages link to it. Empty: no link."
    ),
}  # fmt: skip

RISING = ("thermal.power_step_celsius", "thermal.hold_jobs_celsius", "thermal.pause_jobs_celsius")
"""Limits that only make sense in this order: whoever changes one of them is held to it."""


_read: ContextVar[dict[str, Any] | None] = ContextVar("_read", default=None)
"""What `read_once` has read."""


@contextmanager
def read_once() -> Iterator[None]:
    """Within it `get` answers from one reading of all settings: for a short round of work that asks for many.

    A change that somebody makes meanwhile counts from the next round on.
    """
    token = _read.set(dict(Setting.objects.values_list("key", "value")))
    try:
        yield
    finally:
        _read.reset(token)


def get(key: str) -> Any:
    """The value in force. Raises NotFoundError for an unknown key."""
    definition = _definition(key)
    if (read := _read.get()) is not None:
        return read.get(key, definition.default)
    row = Setting.objects.filter(key=key).first()
    return definition.default if row is None else row.value


def effective() -> dict[str, Any]:
    """Every setting with its value in force."""
    changed = dict(Setting.objects.values_list("key", "value"))
    return {key: changed.get(key, definition.default) for key, definition in DEFAULTS.items()}


def put(actor: Actor, key: str, value: Any) -> Any:
    """Changes a setting; returns the value as stored. Raises as `put_all` does."""
    return put_all(actor, {key: value})[key]


def put_all(actor: Actor, values: dict[str, Any]) -> dict[str, Any]:
    """Changes several settings, or none of them; returns the values as stored.

    Raises NotFoundError for an unknown key, InvalidInputError, naming the key, for a value that can't be taken.
    """
    actor.require(Role.ADMIN)
    checked = {key: _checked(key, _definition(key), value) for key, value in values.items()}
    with transaction.atomic():
        for key, value in checked.items():
            Setting.objects.update_or_create(key=key, defaults={"value": value})
            audit(actor, "setting.put", key, value=value)
        _check_order([key for key in checked if key in RISING])
    return checked


def _check_order(changed: list[str]) -> None:
    """Raises InvalidInputError where the limits, of which some were changed, don't rise."""
    values = effective()
    step, hold, pause = (values[key] for key in RISING)
    if changed and not step < hold < pause:
        path = changed[0] if len(changed) == 1 else RISING[1]
        fault = {RISING[0]: f"below {hold}", RISING[1]: "between the other two", RISING[2]: f"above {hold}"}[path]
        raise InvalidInputError(
            f"The three limits must rise: power at {step} °C, new jobs at {hold} °C, pausing at {pause} °C.",
            (FieldFault(path, fault),),
        )


def _definition(key: str) -> Definition:
    if key not in DEFAULTS:
        raise NotFoundError(f"There is no setting {key!r}. There are: {', '.join(DEFAULTS)}.")
    return DEFAULTS[key]


def _checked(key: str, definition: Definition, value: Any) -> Any:
    wanted: Any = type(definition.default)
    try:
        if wanted is bool and not isinstance(value, bool):
            value = {"true": True, "false": False}[str(value).lower()]
        checked = wanted(value)
    except (TypeError, ValueError, KeyError):
        message = f"{key} must be a {wanted.__name__}, not {value!r}."
        raise InvalidInputError(message, (FieldFault(key, message),)) from None
    low, high = definition.minimum, definition.maximum
    if low is not None and high is not None and not low <= float(checked) <= high:
        message = f"{key} must lie between {low:g} and {high:g}."
        raise InvalidInputError(message, (FieldFault(key, message),))
    if definition.check is not None:
        definition.check(checked)
    return checked
