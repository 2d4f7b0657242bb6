"""The rules of alerts: what is watched, how urgent it is, whether it is switched on. Runs in the web process.

A rule of a state goes on until the state is over and then ends by itself; a rule of an event stands until somebody
acknowledges it, or what it tells of is done again. Limits are settings; a rule that is switched off makes no alert.
"""

from dataclasses import dataclass

from django.db import transaction

from controlplane.errors import NotFoundError
from controlplane.models.access import Actor, Role
from controlplane.models.alerts import Severity
from controlplane.services import settings
from controlplane.services.access import audit

OFF = "alerts.off"


@dataclass(frozen=True)
class Rule:
    """One thing that is watched. `limits` names the settings that bound it; `severity` is what it begins with."""

    key: str
    title: str
    severity: str
    description: str
    is_event: bool = False
    limits: tuple[str, ...] = ()


RULES: tuple[Rule, ...] = (
    Rule("run_finished", "Run finished", Severity.INFO, "A training run has ended as it should.", is_event=True),
    Rule("run_failed", "Run failed", Severity.WARNING, "A training run has failed and is not tried again.",
         is_event=True),
    Rule("loss_nan", "Loss is not a number", Severity.WARNING,
         "A run has reported a loss of NaN or Infinity: it learns nothing any more.", is_event=True),
    Rule("gpu_lost", "GPU lost", Severity.CRITICAL,
         "A GPU reports a fault, is gone, or its driver doesn't answer."),
    Rule("temperature_power", "Too warm: power stepped down", Severity.WARNING,
         "The thermal guard has lowered a GPU's power limit.", limits=("thermal.power_step_celsius",)),
    Rule("temperature_hold", "Too warm: new jobs wait", Severity.WARNING,
         "The thermal guard lets no new job start on a GPU.", limits=("thermal.hold_jobs_celsius",)),
    Rule("temperature_pause", "Too hot: runs paused", Severity.CRITICAL,
         "The thermal guard has paused the training runs of a GPU, with a checkpoint.",
         limits=("thermal.pause_jobs_celsius",)),
    Rule("power_drift", "Power changed by another", Severity.WARNING,
         "A GPU's power limit or persistence mode isn't what was set: something else changed it."),
    Rule("power_schedule", "Power schedule refused", Severity.WARNING,
         "A schedule could not set a power profile on a GPU."),
    Rule("disk", "Disk nearly full", Severity.WARNING,
         "The disk with a host's home folder has less room than either limit; critical below a quarter of it.",
         limits=("alerts.disk_free_percent", "alerts.disk_free_gib")),
    Rule("queue_stuck", "Queue stuck", Severity.WARNING,
         "Jobs wait although nothing that could hold them up makes progress.", limits=("alerts.queue_stuck_minutes",)),
    Rule("inbox_stuck", "Inbox stuck", Severity.WARNING,
         "A file in the inbox isn't taken: it never becomes whole, or something stands in its way.",
         limits=("alerts.inbox_stuck_minutes",)),
    Rule("engine_down", "Engine down", Severity.CRITICAL, "The active model's engine doesn't answer.",
         limits=("alerts.engine_down_seconds",)),
    Rule("engine_failed", "Engine failed", Severity.WARNING,
         "An engine could not be started, or has ended by itself and isn't started again; critical where no other "
         "model serves.", is_event=True),
    Rule("host_offline", "Host offline", Severity.CRITICAL, "A host's agent doesn't answer.",
         limits=("alerts.host_offline_seconds",)),
)  # fmt: skip
BY_KEY = {rule.key: rule for rule in RULES}


def get(key: str) -> Rule:
    """The rule. Raises NotFoundError."""
    if key not in BY_KEY:
        raise NotFoundError(f"There is no rule {key!r}. There are: {', '.join(BY_KEY)}.")
    return BY_KEY[key]


def title(key: str) -> str:
    """What a rule is called; one that isn't in the list by its key."""
    rule = BY_KEY.get(key)
    return rule.title if rule else key.replace("_", " ").capitalize()


def is_event(key: str) -> bool:
    """Whether a rule tells of something that happened, and not of something that goes on."""
    rule = BY_KEY.get(key)
    return rule is not None and rule.is_event


def switched_off() -> frozenset[str]:
    """The keys of the rules that make no alert."""
    return frozenset(filter(None, (word.strip() for word in str(settings.get(OFF)).split(","))))


def is_on(key: str) -> bool:
    """Whether a rule makes alerts."""
    return key not in switched_off()


def switch(actor: Actor, key: str, on: bool) -> Rule:
    """Switches a rule on or off (admin). What is open of one that is switched off is ended by the next look."""
    actor.require(Role.ADMIN)
    rule = get(key)
    with transaction.atomic():
        off = switched_off() - {key} if on else switched_off() | {key}
        settings.put(actor, OFF, ", ".join(sorted(off)))
        audit(actor, "alert_rule.on" if on else "alert_rule.off", key)
    return rule
