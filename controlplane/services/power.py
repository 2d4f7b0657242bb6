"""Power of GPUs: what is in force, and setting profiles. Runs in the web process.

What is shown is what was read back, never what was asked. Who presses last, wins: a card is changed by one at a time.
"""

from typing import Any, TypedDict

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.fleet.protocol import PowerAnswer
from controlplane.live.announce import publish
from controlplane.models import Gpu
from controlplane.models.access import Actor, Role
from controlplane.moments import iso
from controlplane.services import alerts, health, power_agent, power_profiles, settings
from controlplane.services.access import audit
from controlplane.services.power_profiles import Profile

DRIFT_RULE = "power_drift"


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


# --- What is in force -------------------------------------------------------------------------------------------------


def overview(host: str | None = None, gpu: int | None = None) -> dict[str, Any]:
    """What GET /api/settings/power_profile answers. `profiles` has the first GPU's watts, each of `gpus` its own."""
    rows = health.gpus(host, gpu)
    asked = {row.power_profile for row in rows}
    first = power_profiles.watts_by_profile(rows[0]) if rows else dict.fromkeys(power_profiles.PROFILES)
    concurrent = power_profiles.concurrent_limits()
    return {
        "current": (asked.pop() or None) if len(asked) == 1 else None,
        "profiles": {
            name: {
                "power_limit_w": first[name], "max_concurrent_jobs": concurrent[name],
                "description": profile.description,
            }
            for name, profile in power_profiles.PROFILES.items()
        },
        "gpus": [gpu_facts(row) for row in rows],
    }  # fmt: skip


def gpu_facts(gpu: Gpu) -> dict[str, Any]:
    """One GPU's power: what was asked, what is in force, what is allowed, and who refused last."""
    answer = gpu.power_answer or {}
    low, high = power_profiles.allowed_range(gpu)
    return {
        "host": gpu.host.name, "index": gpu.index, "uuid": gpu.uuid, "name": gpu.name,
        "profile": gpu.power_profile or None, "profiles": power_profiles.watts_by_profile(gpu),
        "asked_w": answer.get("asked_watts"), "expected_w": power_profiles.expected_watts(gpu),
        "power_limit_w": gpu.reading.get("power_limit_watts"),
        "power_limit_default_w": gpu.reading.get("power_limit_default_watts"),
        "power_limit_min_w": low, "power_limit_max_w": high, "power_draw_w": gpu.reading.get("power_draw_watts"),
        "set": answer.get("set"), "reason": answer.get("reason"), "fix": answer.get("fix"), "set_by": answer.get("by"),
        "set_at": iso(gpu.power_set_at), "drift": gpu.power_drift,
        "persistence": persistence_facts(gpu), "heat_level": gpu.heat_level, "held_w": power_profiles.held_watts(gpu),
        "heat_since": iso(gpu.heat_since),
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
    chosen = power_profiles.named(profile)
    rows = health.gpus(host, gpu)
    if not rows:
        raise nobody(host, gpu)
    if strict:
        _refuse_out_of_range(rows, chosen)
    return [set_profile(actor, row, profile, strict=strict) for row in rows]


def nobody(host: str | None, gpu: int | None) -> NotFoundError | ConflictError:
    """What is raised where no card is meant."""
    if host is None and gpu is None:
        return ConflictError("No host has a GPU that NVML shows, so there is nothing to set.")
    where = (f"GPU {gpu}" if gpu is not None else "GPU") + (f" on host {host!r}" if host is not None else "")
    return NotFoundError(f"There is no {where}. GET /api/gpu lists them.")


def _refuse_out_of_range(rows: list[Gpu], profile: Profile) -> None:
    faults = []
    for row in rows:
        watts, (low, high) = power_profiles.wanted_watts(row, profile), power_profiles.allowed_range(row)
        if watts is not None and watts != power_profiles.clamped(row, watts):
            faults.append(
                f"GPU {row.index} on {row.host.name} ({row.name}) takes {low:g} to {high:g} W, not {watts:g} W"
            )
    if faults:
        raise InvalidInputError("; ".join(faults) + ". Nothing was set.", (FieldFault("profile", "out of range"),))


def set_profile(actor: Actor, gpu: Gpu, profile: str, *, strict: bool = False) -> Outcome:
    """Sets one card's profile: asks the agent (outside of any transaction), then stores what it says."""
    actor.require(Role.ADMIN)
    chosen = power_profiles.named(profile)
    with power_agent.alone_with(gpu) as row:
        if row is None:
            return _outcome(gpu, chosen, power_agent.refusal(gpu, 0.0, power_agent.BY_AGENT, *power_agent.gone(gpu)))
        return set_held(actor, row, profile, strict=strict)


def set_held(actor: Actor, row: Gpu, profile: str, *, strict: bool = False) -> Outcome:
    """The same for a card that the caller holds already (`alone_with`)."""
    actor.require(Role.ADMIN)
    chosen, restore = power_profiles.named(profile), power_agent.puts_back()
    answer = _answer(row, chosen, strict=strict)
    with transaction.atomic():
        _store(actor, row, chosen, answer, restore)
    return _outcome(row, chosen, answer)


def _answer(gpu: Gpu, profile: Profile, *, strict: bool) -> PowerAnswer:
    watts = power_profiles.clamped(gpu, power_profiles.wanted_watts(gpu, profile))
    held = power_profiles.held_watts(gpu)
    if watts is None:
        return power_agent.refusal(
            gpu, 0.0, "nvml", "The card doesn't tell its default power limit.", "Its limit can't be changed by NVML."
        )
    if held is None or held >= watts:
        return power_agent.ask_watts(gpu, watts, strict=strict)
    answer = power_agent.ask_watts(gpu, held, strict=strict)
    if answer["set"]:
        answer["asked_watts"], answer["clamped"] = watts, True
        answer["reason"] = (
            f"The thermal guard holds it at {held:g} W; it gets its {watts:g} W when it has cooled below "
            f"{settings.get('thermal.power_step_celsius') - settings.get('thermal.hysteresis_celsius')} °C."
        )
    return answer


def _store(actor: Actor, gpu: Gpu, profile: Profile, answer: PowerAnswer, restore: bool) -> None:
    now, accepted = timezone.now(), power_agent.accepted_at(gpu)
    kept = now if answer["set"] else accepted
    told = restore if answer["refused_by"] != power_agent.BY_AGENT else (gpu.power_answer or {}).get("restore_told")
    values: dict[str, Any] = {
        "power_answer": {
            **answer, "profile": profile.name, "by": actor.name, "restore_told": told,
            "accepted_at": iso(kept),
        },
        "power_set_at": now,
    }  # fmt: skip
    if answer["set"]:
        values |= {"power_profile": profile.name, "power_drift": None}
        alerts.end(DRIFT_RULE, power_profiles.label(gpu))  # also one that was found while the card was being set
    store_limit(gpu, answer, **values)
    audit(actor, "power.set", power_profiles.label(gpu), profile=profile.name, **answer)
    tell(gpu)


def store_limit(gpu: Gpu, answer: PowerAnswer, **values: Any) -> None:
    """Stores columns of a card, and the limit that was read back as its reading. Inside a transaction."""
    if answer["applied_watts"] is not None:
        values["reading"] = {**gpu.reading, "power_limit_watts": answer["applied_watts"]}
    Gpu.objects.filter(pk=gpu.pk).update(**values)
    gpu.refresh_from_db()


def _outcome(gpu: Gpu, profile: Profile, answer: PowerAnswer) -> Outcome:
    wanted = power_profiles.wanted_watts(gpu, profile)
    asked = power_profiles.clamped(gpu, wanted)
    return Outcome(
        host=gpu.host.name, index=gpu.index, uuid=gpu.uuid, name=gpu.name, profile=profile.name, asked_w=asked,
        power_limit_w=answer["applied_watts"], clamped=answer["clamped"] or asked != wanted, set=answer["set"],
        refused_by=answer["refused_by"], reason=answer["reason"], fix=answer["fix"],
    )  # fmt: skip
