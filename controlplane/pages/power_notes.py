"""What is to be said of a card's power and heat beside its figures. Runs in the web process."""

from dataclasses import dataclass

from controlplane.models import Gpu
from controlplane.services import drift, power_profiles, thermal


@dataclass(frozen=True)
class Note:
    """A sentence, and the colour's class of its mark ("" is amber)."""

    text: str
    tone: str = ""


def notes(gpu: Gpu) -> list[Note]:
    """What others did to its limit, and what the thermal guard does; mostly nothing."""
    found, reason = [], (gpu.heat or {}).get("reason")
    if said := drift.sentence(gpu):
        found.append(Note(f"{said}."))
    if gpu.heat_level >= thermal.HOLD:
        found.append(Note(_waiting(gpu), "bad" if gpu.heat_level >= thermal.PAUSE else ""))
    held = power_profiles.held_watts(gpu)
    if held is not None:
        cool = thermal.limits().cool_below(thermal.STEP)
        found.append(Note(f"The thermal guard holds it at {held:g} W until it has cooled below {cool} °C."))
    if reason:
        found.append(Note(f"The thermal guard can't change its limit: {reason}", "bad"))
    return found


def _waiting(gpu: Gpu) -> str:
    limits = thermal.limits()
    if gpu.heat_level >= thermal.PAUSE:
        return f"Too hot: its training runs are paused until it has cooled below {limits.cool_below(thermal.HOLD)} °C."
    return f"Too warm: new jobs wait until it has cooled below {limits.cool_below(thermal.HOLD)} °C."
