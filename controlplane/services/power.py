"""Power limits of GPUs: what the three profiles mean for a card, and setting them. Runs in the web process.

On an RTX 3090 the profiles are 220, 280 and 350 W; on any other card they are 0.63, 0.80 and 1.00 of its default limit.
What is shown is what was read back, never what was asked.
"""

import re
from dataclasses import dataclass
from typing import Any, TypedDict

from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, NotFoundError
from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError, PowerAnswer
from controlplane.fleet.registry import carrier
from controlplane.live.announce import publish
from controlplane.models import Gpu
from controlplane.models.access import Actor, Role
from controlplane.services import health, settings
from controlplane.services.access import audit


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
_RTX_3090 = re.compile(r"\bRTX 3090(?! Ti)\b", re.IGNORECASE)


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


def overview(host: str | None = None, gpu: int | None = None) -> dict[str, Any]:
    """What GET /api/settings/power_profile answers. `profiles` has the first GPU's watts, each of `gpus` its own."""
    rows = health.gpus(host, gpu)
    asked = {row.power_profile for row in rows}
    first = profiles(rows[0]) if rows else dict.fromkeys(PROFILES)
    # A profile sets the power limit alone; how many jobs run at once is a setting of its own.
    concurrent = settings.get("jobs.max_concurrent_train")
    return {
        "current": (asked.pop() or None) if len(asked) == 1 else None,
        "profiles": {
            name: {
                "power_limit_w": first[name], "max_concurrent_jobs": concurrent, "description": profile.description
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
        "power_limit_w": gpu.reading.get("power_limit_watts"),
        "power_limit_default_w": gpu.reading.get("power_limit_default_watts"),
        "power_limit_min_w": low, "power_limit_max_w": high, "power_draw_w": gpu.reading.get("power_draw_watts"),
        "set": answer.get("set"), "reason": answer.get("reason"), "fix": answer.get("fix"),
        "set_at": gpu.power_set_at.isoformat() if gpu.power_set_at else None,
    }  # fmt: skip


# --- Setting them -----------------------------------------------------------------------------------------------------


def request(
    actor: Actor, profile: str, *, host: str | None = None, gpu: int | None = None, strict: bool = False
) -> list[Outcome]:
    """Sets the profile on every GPU that is meant, and returns what became of each: one that refuses stops no other.

    Raises InvalidInputError for an unknown profile and, with `strict`, when a card can't take its watts (nothing is set
    then); NotFoundError where no such GPU is known.
    """
    actor.require(Role.ADMIN)
    chosen = PROFILES.get(profile)
    if chosen is None:
        raise InvalidInputError(
            f"There is no power profile {profile!r}: choose quiet, normal or max.",
            (FieldFault("profile", "quiet, normal or max"),),
        )
    rows = health.gpus(host, gpu)
    if not rows:
        raise _nobody(host, gpu)
    if strict:
        _refuse_out_of_range(rows, chosen)
    return [_set(actor, row, chosen, strict=strict) for row in rows]


def _nobody(host: str | None, gpu: int | None) -> NotFoundError | ConflictError:
    if host is None and gpu is None:
        return ConflictError("No host has a GPU that NVML shows, so there is no power limit to set.")
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


def _set(actor: Actor, gpu: Gpu, profile: Profile, *, strict: bool) -> Outcome:
    """Asks the agent (outside of any transaction), then stores what it says."""
    watts = _clamped(gpu, wanted_watts(gpu, profile))
    if watts is None:
        answer = _refusal(
            gpu, 0.0, "nvml", "The card doesn't tell its default power limit.", "Its limit can't be changed by NVML."
        )
    else:
        answer = _ask(gpu, watts, strict=strict)
    with transaction.atomic():
        values: dict[str, Any] = {"power_answer": answer, "power_set_at": timezone.now()}
        if answer["set"]:
            values["power_profile"] = profile.name
        if answer["applied_watts"] is not None:
            values["reading"] = {**gpu.reading, "power_limit_watts": answer["applied_watts"]}
        Gpu.objects.filter(pk=gpu.pk).update(**values)
        audit(actor, "power.set", f"GPU {gpu.index} on {gpu.host.name}", profile=profile.name, **answer)
        gpu.refresh_from_db()
        publish("hosts", "status", {"host": gpu.host.name, "gpu": gpu.uuid, "power": gpu_facts(gpu)})
    return Outcome(
        host=gpu.host.name, index=gpu.index, uuid=gpu.uuid, name=gpu.name, profile=profile.name, asked_w=watts,
        power_limit_w=answer["applied_watts"], clamped=answer["clamped"] or watts != wanted_watts(gpu, profile),
        set=answer["set"], refused_by=answer["refused_by"], reason=answer["reason"], fix=answer["fix"],
    )  # fmt: skip


def _ask(gpu: Gpu, watts: float, *, strict: bool) -> PowerAnswer:
    try:
        return carrier(gpu.host).set_power(gpu.uuid, watts, strict=strict)
    except AgentRefusedError as error:
        return _refusal(gpu, watts, "agent", str(error), error.fix)
    except HostUnreachableError as error:
        return _refusal(
            gpu, watts, "agent", str(error), f"Start the agent of {gpu.host.name} (bin/up), then try again."
        )


def _refusal(gpu: Gpu, watts: float, by: str, reason: str, fix: str) -> PowerAnswer:
    return PowerAnswer(
        uuid=gpu.uuid, asked_watts=watts, applied_watts=gpu.reading.get("power_limit_watts"), clamped=False, set=False,
        method=None, refused_by=by, reason=reason, fix=fix,
    )  # fmt: skip
