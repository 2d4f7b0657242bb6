"""Sets a GPU's power limit and reports what the card then says, not what was asked.

Runs in the agent. NVML first: it works for root. For anyone else, `sudo -n nvidia-smi`, if the host's owner allows
just that. Else the refusal comes with the two lines that the owner has to type.
"""

import getpass
import shutil
import subprocess

from monitoring.nvml import NvmlFaultError, NvmlGate, NvmlRefusedError, PowerLimits, UnknownGpuError
from monitoring.wire import AgentFaultError, PowerAnswer

SUDO_SECONDS = 15.0
TOLERANCE_WATTS = 1.0
SUDOERS_FILE = "/etc/sudoers.d/pilothouse-power"
USUAL_NVIDIA_SMI = "/usr/bin/nvidia-smi"


def set_power(gate: NvmlGate, uuid: str, watts: float, *, strict: bool) -> PowerAnswer:
    """Sets the limit of one GPU, clamped into the card's range.

    Raises AgentFaultError: `unknown_gpu`, `bad_call`, and with `strict` `out_of_range`.
    A refusal or a silent driver is an answer, not an error.
    """
    if not isinstance(watts, (int, float)) or isinstance(watts, bool) or not 0 < watts < 100_000:
        raise AgentFaultError("bad_call", f"A power limit is a number of watts above 0, not {watts!r}.")
    try:
        limits = gate.power_limits(uuid)
        wanted = _within(limits, watts, strict=strict)
        answer = _try_nvml(gate, uuid, wanted) or _try_sudo(uuid, wanted)
        answer["asked_watts"] = watts
        answer["clamped"] = wanted != watts
        return _read_back(gate, uuid, wanted, answer)
    except UnknownGpuError:
        raise AgentFaultError("unknown_gpu", f"This host has no GPU {uuid}.", "Reload the list of GPUs.") from None
    except NvmlFaultError as fault:
        return _refusal(uuid, watts, "nvml", str(fault), None)


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


def _try_nvml(gate: NvmlGate, uuid: str, watts: float) -> PowerAnswer | None:
    """The answer, or None where NVML wants more rights than this process has."""
    try:
        gate.set_power_limit(uuid, watts)
    except NvmlRefusedError as error:
        if error.permission:
            return None
        return _refusal(uuid, watts, "nvml", f"The driver refused {watts:g} W: {error}.", None)
    return _success(uuid, watts, "nvml")


def _try_sudo(uuid: str, watts: float) -> PowerAnswer:
    sudo, nvidia_smi = shutil.which("sudo"), shutil.which("nvidia-smi")
    if sudo is None or nvidia_smi is None:
        missing = "sudo" if sudo is None else "nvidia-smi"
        reason = f"Setting a power limit needs root, and {missing} isn't installed."
        return _refusal(uuid, watts, "sudo nvidia-smi", reason, permission_fix(uuid, nvidia_smi))
    # Whole watts: the sudoers line allows digits and nothing else.
    command = [sudo, "-n", nvidia_smi, "-i", uuid, "-pl", str(round(watts))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SUDO_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"sudo nvidia-smi didn't come to an end: {error}."
        return _refusal(uuid, watts, "sudo nvidia-smi", reason, permission_fix(uuid, nvidia_smi))
    if done.returncode == 0:
        return _success(uuid, watts, "nvidia-smi")
    reason = " ".join((done.stderr.strip() or done.stdout.strip() or f"code {done.returncode}").split())
    return _refusal(uuid, watts, "sudo nvidia-smi", reason, permission_fix(uuid, nvidia_smi))


def permission_fix(uuid: str, nvidia_smi: str | None) -> str:
    """The two lines that let this user set the limit of this GPU, and nothing else, through sudo."""
    digits = ", ".join(f"{nvidia_smi or USUAL_NVIDIA_SMI} -i {uuid} -pl {'[0-9]' * count}" for count in (2, 3, 4))
    rule = f"{getpass.getuser()} ALL=(root) NOPASSWD: {digits}"
    return f"echo '{rule}' | sudo tee -a {SUDOERS_FILE}\nsudo chmod 440 {SUDOERS_FILE} && sudo visudo -c"


def _read_back(gate: NvmlGate, uuid: str, wanted: float, answer: PowerAnswer) -> PowerAnswer:
    applied = gate.power_limits(uuid).current
    answer["applied_watts"] = applied
    if answer["set"] and (applied is None or abs(applied - wanted) > TOLERANCE_WATTS):
        said = "does not tell its limit" if applied is None else f"reads back {applied:g} W"
        answer["set"] = False
        answer["refused_by"] = "nvml" if answer["method"] == "nvml" else "sudo nvidia-smi"
        answer["reason"] = f"{wanted:g} W was accepted, but the card {said}."
    return answer


def _success(uuid: str, watts: float, method: str) -> PowerAnswer:
    return PowerAnswer(
        uuid=uuid,
        asked_watts=watts,
        applied_watts=None,
        clamped=False,
        set=True,
        method="nvml" if method == "nvml" else "nvidia-smi",
        refused_by=None,
        reason=None,
        fix=None,
    )


def _refusal(uuid: str, watts: float, refused_by: str, reason: str, fix: str | None) -> PowerAnswer:
    return PowerAnswer(
        uuid=uuid,
        asked_watts=watts,
        applied_watts=None,
        clamped=False,
        set=False,
        method=None,
        refused_by=refused_by,
        reason=reason,
        fix=fix,
    )
