"""What the three power profiles mean for a card, and what it is held at. Runs in the web process; reads only.

On an RTX 3090 the profiles are 220, 280 and 350 W; on any other card they are 0.63, 0.80 and 1.00 of its default limit.
"""

import re
from dataclasses import dataclass

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import Gpu
from controlplane.services import settings


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


def named(profile: str, path: str = "profile") -> Profile:
    """The profile of a name. Raises InvalidInputError."""
    chosen = PROFILES.get(profile)
    if chosen is None:
        raise InvalidInputError(
            f"There is no power profile {profile!r}: choose quiet, normal or max.",
            (FieldFault(path, "quiet, normal or max"),),
        )
    return chosen


def wanted_watts(gpu: Gpu, profile: Profile) -> float | None:
    """The profile's watts before clamping; None where the card's default limit isn't known."""
    if _RTX_3090.search(gpu.name):
        return profile.rtx_3090_watts
    default = gpu.reading.get("power_limit_default_watts")
    return None if default is None else round(default * profile.share, 1)


def watts_by_profile(gpu: Gpu) -> dict[str, float | None]:
    """Watts of each profile on this card, clamped into its allowed range."""
    return {name: clamped(gpu, wanted_watts(gpu, profile)) for name, profile in PROFILES.items()}


def clamped(gpu: Gpu, watts: float | None) -> float | None:
    """Watts within what the card allows; None where they aren't known."""
    if watts is None:
        return None
    low, high = allowed_range(gpu)
    watts = watts if low is None else max(low, watts)
    return watts if high is None else min(high, watts)


def allowed_range(gpu: Gpu) -> tuple[float | None, float | None]:
    """The least and the most watts that the card takes, as far as it tells."""
    return gpu.reading.get("power_limit_min_watts"), gpu.reading.get("power_limit_max_watts")


def wished_watts(gpu: Gpu) -> float | None:
    """The watts of the profile that somebody or a schedule set last; None where nobody has."""
    return watts_by_profile(gpu).get(gpu.power_profile)


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
