"""Settings that an admin changes while the product runs. Runs in the web process."""

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.models import Setting
from controlplane.models.access import Actor, Role
from controlplane.services.access import audit


@dataclass(frozen=True)
class Definition:
    """One setting: its default tells its type; `minimum` and `maximum` bound a number."""

    default: bool | int | float | str
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None


DEFAULTS: dict[str, Definition] = {
    "datasets.max_fault_fraction": Definition(
        0.01, "A dataset with a larger share of faulty rows is rejected; fewer are skipped and said.", "", 0, 1
    ),
    "datasets.token_sample_rows": Definition(
        5000, "How many rows of a large file are tokenised for its statistics.", "rows", 100, 1_000_000
    ),
    "jobs.max_concurrent_train": Definition(1, "Training runs at the same time on a host without a GPU.", "", 1, 64),
    "jobs.max_concurrent_light": Definition(2, "Fetch and validation jobs at the same time on a host.", "", 1, 64),
    "jobs.max_failures": Definition(3, "How often a job that died is started again before it counts as failed.",
                                    "", 1, 100),
    "uploads.max_bytes": Definition(64 << 30, "The largest file that may be uploaded.", "bytes", 1 << 20, 1 << 50),
    "serving.check_prompt": Definition(
        "Say hello.", "What an engine is asked before it takes the place of the active one."
    ),
    "serving.ready_timeout_seconds": Definition(300, "How long an engine may take to become ready.", "s", 10, 7200),
    "telemetry.keep_hours": Definition(24, "How long ten-second samples of hosts are kept.", "h", 1, 8760),
}  # fmt: skip


def get(key: str) -> Any:
    """The value in force. Raises NotFoundError for an unknown key."""
    definition = _definition(key)
    row = Setting.objects.filter(key=key).first()
    return definition.default if row is None else row.value


def effective() -> dict[str, Any]:
    """Every setting with its value in force."""
    changed = dict(Setting.objects.values_list("key", "value"))
    return {key: changed.get(key, definition.default) for key, definition in DEFAULTS.items()}


def put(actor: Actor, key: str, value: Any) -> Any:
    """Changes a setting; returns the value as stored."""
    actor.require(Role.ADMIN)
    checked = _checked(key, _definition(key), value)
    with transaction.atomic():
        Setting.objects.update_or_create(key=key, defaults={"value": checked})
        audit(actor, "setting.put", key, value=checked)
    return checked


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
        raise InvalidInputError(f"{key} must be a {wanted.__name__}, not {value!r}.") from None
    low, high = definition.minimum, definition.maximum
    if low is not None and high is not None and not low <= float(checked) <= high:
        raise InvalidInputError(f"{key} must lie between {low:g} and {high:g}.")
    return checked
