"""Sets the power of a GPU for a sweep, and puts back what it had. Runs in the web process.

A sweep has no wish of its own: it leaves `Gpu.power_set_at` as it is. So whoever sets the card meanwhile (a person, a
schedule) is seen by that, the card is theirs from then on, and no schedule takes the sweep's settings for a press.
"""

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from controlplane.models import Gpu, PowerSweep
from controlplane.models.access import Actor, Role
from controlplane.moments import iso
from controlplane.services import hosts, power, power_agent, power_profiles, sweeps
from controlplane.services.access import audit


class SweepEndedError(Exception):
    """The sweep can't go on, as a sentence."""


class ProfileFaultError(Exception):
    """One profile can't be measured, as a sentence; the sweep goes on."""


@dataclass(frozen=True)
class PutBack:
    """What became of it. Not `is_done`: it is to be tried again. `sentence`: what there is to say, or empty."""

    is_done: bool
    sentence: str = ""


def actor(sweep: PowerSweep) -> Actor:
    """Whoever has started it: an admin, or they could not have."""
    return Actor(name=sweep.created_by, role=Role.ADMIN)


def card_of(sweep: PowerSweep) -> Gpu | None:
    """The sweep's GPU as it is now."""
    return Gpu.objects.select_related("host").filter(host=sweep.host, uuid=sweep.gpu_uuid).first()


def before(card: Gpu) -> dict[str, Any]:
    """What is put back at the end. The guard's step is none of it: what the card had before that is."""
    heat = card.heat or {}
    return {
        "profile": card.power_profile, "answer": card.power_answer, "set_at": _set_at(card),
        "watts": heat.get("before_watts") or card.reading.get("power_limit_watts"),
    }  # fmt: skip


def _set_at(card: Gpu) -> str | None:
    return iso(card.power_set_at)


def _taken(sweep: PowerSweep, row: Gpu) -> str:
    """Who has set the card since the sweep began, as a sentence; empty where nobody has. A refused press sets nothing.

    Called alone with the card before a change, else what is seen may be over at once.
    """
    restore, answer = sweep.config["restore"], row.power_answer or {}
    if _set_at(row) == restore["set_at"]:
        return ""
    mine = sweep.config.get("profile", restore["profile"])
    if answer.get("set") is False and row.power_profile == mine:
        sweeps.keep(sweep, restore={**restore, "set_at": _set_at(row), "answer": row.power_answer})
        return ""
    who = answer.get("by") or "Somebody"
    return f"{who[0].upper()}{who[1:]} set {row.power_profile or 'its power'} in the middle of it: that stays."


def refuse_taken(sweep: PowerSweep, row: Gpu) -> None:
    """Raises SweepEndedError where somebody else has set the card since the sweep began."""
    if sentence := _taken(sweep, row):
        raise SweepEndedError(sentence)


def set_profile(sweep: PowerSweep, profile: str) -> float:
    """Sets a profile; returns its watts as read back. Raises ProfileFaultError and SweepEndedError."""
    card = card_of(sweep)
    if card is None:
        raise _vanished(sweep)
    with power_agent.alone_with(card) as row:
        if row is None:
            raise _vanished(sweep)
        refuse_taken(sweep, row)
        watts, held = power_profiles.watts_by_profile(row)[profile], power_profiles.held_watts(row)
        if watts is None:
            raise ProfileFaultError("The card doesn't tell its default power limit.")
        if held is not None and held < watts:
            raise ProfileFaultError(f"The thermal guard holds it at {held:g} W.")
        was_asked = sweep.config["asked"]
        sweeps.keep(sweep, asked=True)  # before it is: this process may end in between
        answer = power_agent.ask_watts(row, watts)
        with transaction.atomic():
            audit(actor(sweep), "power.set", power_profiles.label(row), profile=profile, **answer)
            if answer["set"]:
                told = {**(row.power_answer or {}), **answer, "profile": profile, "by": f"sweep {sweep.pk}"}
                power.store_limit(row, answer, power_profile=profile, power_answer=told)
                sweeps.keep(sweep, profile=profile)
                power.tell(row)
    if not answer["set"] or answer["applied_watts"] is None:
        # An agent that didn't answer may have set it all the same.
        sweeps.keep(sweep, asked=was_asked or answer["set"] or answer["refused_by"] == "agent")
        raise ProfileFaultError(" ".join(filter(None, (answer["reason"], answer["fix"]))) or "It was refused.")
    return answer["applied_watts"]


def _vanished(sweep: PowerSweep) -> SweepEndedError:
    return SweepEndedError(f"The GPU has vanished: {sweep.host.name} no longer finds it.")


def put_back(sweep: PowerSweep) -> PutBack:
    """Gives the GPU its former profile or limit, unless somebody else has set it since: then it is theirs."""
    restore, card = sweep.config.get("restore"), card_of(sweep)
    if not restore or not sweep.config.get("asked") or card is None:
        return PutBack(is_done=True)
    if not card.host.reading.get("gpu_fault") and card not in hosts.gpus_of(card.host):
        return PutBack(is_done=True, sentence="The GPU has vanished, so its power was not put back.")
    with power_agent.alone_with(card) as row:
        if row is None or _taken(sweep, row):
            return PutBack(is_done=True)
        restore = sweep.config["restore"]
        watts = power_profiles.watts_by_profile(row)[restore["profile"]] if restore["profile"] else restore["watts"]
        if watts is None:
            return PutBack(True, "Its former power could not be put back: what it was is not known.")
        return _restore(sweep, row, restore, float(watts))


def _restore(sweep: PowerSweep, row: Gpu, restore: dict[str, Any], watts: float) -> PutBack:
    """Alone with the card. One that the thermal guard holds stays held, and gets its watts when it has cooled."""
    held = power_profiles.held_watts(row)
    answer = power_agent.ask_watts(row, watts if held is None else min(watts, held))
    if not answer["set"]:
        return PutBack(is_done=False, sentence=f"Its former power could not be put back: {answer['reason']}")
    with transaction.atomic():
        heat = Gpu.objects.select_for_update().filter(pk=row.pk).values_list("heat", flat=True).first()
        if heat is not None and "before_watts" in heat:
            heat = {**heat, "before_watts": watts}
        power.store_limit(row, answer, power_profile=restore["profile"], power_answer=restore["answer"], heat=heat)
        audit(actor(sweep), "power.restore", power_profiles.label(row), **answer)
        power.tell(row)
    return PutBack(is_done=True)
