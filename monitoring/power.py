"""Sets a GPU's power limit and persistence mode, and reports what the card then says, not what was asked.

Runs in the agent.
"""

from monitoring.nvml import GpuLostError, NvmlFaultError, NvmlGate, PowerLimits, UnknownGpuError
from monitoring.privileged import BY_SUDO, Outcome, change
from monitoring.wire import AgentFaultError, PersistenceAnswer, PowerAnswer

TOLERANCE_WATTS = 1.0


def set_power(gate: NvmlGate, uuid: str, watts: float, *, strict: bool) -> PowerAnswer:
    """Sets the limit of one GPU, clamped into the card's range.

    Raises AgentFaultError: `unknown_gpu`, `bad_call`, and with `strict` `out_of_range`.
    A refusal, a silent driver and a card that is lost are answers, not errors.
    """
    if not isinstance(watts, (int, float)) or isinstance(watts, bool) or not 0 < watts < 100_000:
        raise AgentFaultError("bad_call", f"A power limit is a number of watts above 0, not {watts!r}.")
    wanted = watts
    try:
        wanted = _within(gate.power_limits(uuid), watts, strict=strict)
        outcome, applied = _set_limit(gate, uuid, wanted)
    except UnknownGpuError:
        raise _unknown(uuid) from None
    except NvmlFaultError as fault:
        outcome, applied = Outcome(refused_by="nvml", reason=str(fault)), None
    return PowerAnswer(
        uuid=uuid,
        asked_watts=watts,
        applied_watts=applied,
        clamped=wanted != watts,
        set=outcome.method is not None,
        method=outcome.method,
        refused_by=outcome.refused_by,
        reason=outcome.reason,
        fix=outcome.fix,
    )


def _within(limits: PowerLimits, watts: float, *, strict: bool) -> float:
    low, high = limits.minimum, limits.maximum
    clamped = min(max(watts, low or 0.0), high if high is not None else watts)
    if strict and clamped != watts:
        raise AgentFaultError(
            "out_of_range",
            f"{limits.name} takes a power limit from {low:g} to {high:g} W, not {watts:g} W.",
            "Ask for a limit within the range, or leave strict out to take the nearest.",
        )
    return clamped


def _set_limit(gate: NvmlGate, uuid: str, watts: float) -> tuple[Outcome, float | None]:
    """How it went, and the limit that was read back."""
    # Whole watts for nvidia-smi: the sudoers line allows digits and nothing else.
    option = ("-pl", str(round(watts)))
    try:
        outcome = change(lambda: gate.set_power_limit(uuid, watts), uuid, option, f"a power limit of {watts:g} W")
        applied = gate.power_limits(uuid).current
    except GpuLostError as error:
        return _vanished("its power limit", error), None
    if outcome.method is None or (applied is not None and abs(applied - watts) <= TOLERANCE_WATTS):
        return outcome, applied
    said = "does not tell its limit" if applied is None else f"reads back {applied:g} W"
    return _contradicted(outcome, f"{watts:g} W was accepted, but the card {said}."), applied


def set_persistence(gate: NvmlGate, uuid: str, enabled: bool) -> PersistenceAnswer:
    """Sets the persistence mode of one GPU. A mode that is in force already is left alone and counts as set.

    Raises AgentFaultError: `unknown_gpu`, `bad_call`. A refusal, a silent driver and a lost card are answers.
    """
    if not isinstance(enabled, bool):
        raise AgentFaultError("bad_call", f"A persistence mode is true or false, not {enabled!r}.")
    try:
        outcome, applied = Outcome(), gate.persistence_mode(uuid)
        if applied is not enabled:
            outcome, applied = _set_mode(gate, uuid, enabled)
    except UnknownGpuError:
        raise _unknown(uuid) from None
    except NvmlFaultError as fault:
        outcome, applied = Outcome(refused_by="nvml", reason=str(fault)), None
    return PersistenceAnswer(
        uuid=uuid,
        asked=enabled,
        enabled=applied,
        set=outcome.refused_by is None,
        method=outcome.method,
        refused_by=outcome.refused_by,
        reason=outcome.reason,
        fix=outcome.fix,
    )


def _set_mode(gate: NvmlGate, uuid: str, enabled: bool) -> tuple[Outcome, bool | None]:
    """How it went, and the mode that was read back."""
    mode, option = f"persistence mode {_word(enabled)}", ("-pm", str(int(enabled)))
    try:
        outcome = change(lambda: gate.set_persistence_mode(uuid, enabled), uuid, option, mode)
        applied = gate.persistence_mode(uuid)
    except GpuLostError as error:
        return _vanished("its persistence mode", error), None
    if outcome.method is None or applied is enabled:
        return outcome, applied
    said = "does not tell its mode" if applied is None else f"reads back {_word(applied)}"
    return _contradicted(outcome, f"Persistence mode {_word(enabled)} was accepted, but the card {said}."), applied


def _word(enabled: bool) -> str:
    return "on" if enabled else "off"


def _contradicted(outcome: Outcome, reason: str) -> Outcome:
    return Outcome(refused_by="nvml" if outcome.method == "nvml" else BY_SUDO, reason=reason)


def _vanished(what: str, error: GpuLostError) -> Outcome:
    return Outcome(refused_by="nvml", reason=f"The card vanished while {what} was being set. {error}")


def _unknown(uuid: str) -> AgentFaultError:
    return AgentFaultError("unknown_gpu", f"This host has no GPU {uuid}.", "Reload the list of GPUs.")
