"""Persistence mode of GPUs: the driver stays loaded while nobody uses a card. Runs in the web process.

As with power, what is shown is what was read back, and a card is changed by one at a time.
"""

from typing import Any, TypedDict

from django.db import transaction
from django.utils import timezone

from controlplane.fleet.protocol import PersistenceAnswer
from controlplane.models import Gpu
from controlplane.models.access import Actor, Role
from controlplane.services import alerts, health, power, power_agent
from controlplane.services.access import audit
from controlplane.services.power_agent import BY_AGENT
from controlplane.services.power_profiles import label


class Outcome(TypedDict):
    """What became of one GPU's persistence mode; `enabled` is what was read back."""

    host: str
    index: int
    uuid: str
    name: str
    asked: bool
    enabled: bool | None
    set: bool
    refused_by: str | None
    reason: str | None
    fix: str | None


def request(actor: Actor, enabled: bool, *, host: str | None = None, gpu: int | None = None) -> list[Outcome]:
    """Sets persistence mode (the driver stays loaded while nobody uses the card) on every GPU that is meant.

    Returns what was read back of each. Raises NotFoundError where no such GPU is known.
    """
    actor.require(Role.ADMIN)
    rows = health.gpus(host, gpu)
    if not rows:
        raise power.nobody(host, gpu)
    return [_set(actor, row, enabled) for row in rows]


def _set(actor: Actor, gpu: Gpu, enabled: bool) -> Outcome:
    with power_agent.alone_with(gpu) as row:
        if row is None:
            return _outcome(gpu, _refusal(gpu, enabled, *power_agent.gone(gpu)))
        restore, answer = power_agent.puts_back(), ask(row, enabled)
        told = restore if answer["refused_by"] != BY_AGENT else (row.persistence_answer or {}).get("restore_told")
        with transaction.atomic():
            if answer["set"]:
                Gpu.objects.filter(pk=row.pk).update(persistence_wanted=enabled)
                alerts.end(power.DRIFT_RULE, f"persistence mode of {label(row)}")
            moment = timezone.now().isoformat()
            store(row, {**answer, "by": actor.name, "set_at": moment, "restore_told": told})
            audit(actor, "power.persistence", label(row), **answer)
            power.tell(row)
    return _outcome(row, answer)


def store(gpu: Gpu, answer: dict[str, Any]) -> None:
    """Stores what became of a change, and what was read back as the card's reading. Inside a transaction."""
    values: dict[str, Any] = {"persistence_answer": answer}
    if answer["enabled"] is not None:
        values["reading"] = {**gpu.reading, "persistence_mode": answer["enabled"]}
    Gpu.objects.filter(pk=gpu.pk).update(**values)
    gpu.refresh_from_db()


def _outcome(gpu: Gpu, answer: PersistenceAnswer) -> Outcome:
    return Outcome(
        host=gpu.host.name, index=gpu.index, uuid=gpu.uuid, name=gpu.name, asked=answer["asked"],
        enabled=answer["enabled"], set=answer["set"], refused_by=answer["refused_by"], reason=answer["reason"],
        fix=answer["fix"],
    )  # fmt: skip


def ask(gpu: Gpu, enabled: bool) -> PersistenceAnswer:
    """Has the agent set it; a refusal, a silent host and a card that vanished are answers too."""
    restore = power_agent.puts_back()
    return power_agent.ask(
        gpu,
        lambda agent: agent.set_persistence(gpu.uuid, enabled, restore_at_stop=restore),
        lambda reason, fix: _refusal(gpu, enabled, reason, fix),
    )


def _refusal(gpu: Gpu, enabled: bool, reason: str, fix: str) -> PersistenceAnswer:
    return PersistenceAnswer(
        uuid=gpu.uuid, asked=enabled, enabled=gpu.reading.get("persistence_mode"), set=False, method=None,
        refused_by=BY_AGENT, reason=reason, fix=fix,
    )  # fmt: skip
