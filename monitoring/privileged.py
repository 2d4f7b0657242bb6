"""Changing what only root may change of a GPU, and saying how it went. Runs in the agent.

NVML first: it works for root. For anyone else, `sudo -n nvidia-smi`, if the host's owner allows just that. Else the
refusal comes with the two lines that the owner has to type.
"""

import getpass
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from monitoring.nvml import NvmlRefusedError

SUDO_SECONDS = 15.0
SUDOERS_FILE = "/etc/sudoers.d/pilothouse-power"
USUAL_NVIDIA_SMI = "/usr/bin/nvidia-smi"
BY_SUDO = "sudo nvidia-smi"

Method = Literal["nvml", "nvidia-smi"]


@dataclass(frozen=True)
class Outcome:
    """How a change went. `method` is set when it was accepted, `refused_by` and `reason` when not."""

    method: Method | None = None
    refused_by: str | None = None
    reason: str | None = None
    fix: str | None = None


def change(direct: Callable[[], None], uuid: str, option: tuple[str, str], what: str) -> Outcome:
    """Changes something of one GPU: by `direct` (NVML), else by nvidia-smi's `option`.

    `what` names it in sentences ("220 W"). Raises what `direct` raises but NvmlRefusedError.
    """
    try:
        direct()
    except NvmlRefusedError as error:
        if not error.permission:
            return Outcome(refused_by="nvml", reason=f"The driver refused {what}: {error}.")
        return _by_sudo(uuid, option, what)
    return Outcome(method="nvml")


def _by_sudo(uuid: str, option: tuple[str, str], what: str) -> Outcome:
    sudo, nvidia_smi = shutil.which("sudo"), shutil.which("nvidia-smi")
    fix = permission_fix(uuid, nvidia_smi)
    if sudo is None or nvidia_smi is None:
        missing = "sudo" if sudo is None else "nvidia-smi"
        return Outcome(refused_by=BY_SUDO, reason=f"Setting {what} needs root, and {missing} isn't installed.", fix=fix)
    try:
        done = subprocess.run(
            [sudo, "-n", nvidia_smi, "-i", uuid, *option],
            capture_output=True,
            text=True,
            timeout=SUDO_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Outcome(refused_by=BY_SUDO, reason=f"sudo nvidia-smi didn't come to an end: {error}.", fix=fix)
    if done.returncode == 0:
        return Outcome(method="nvidia-smi")
    reason = " ".join((done.stderr.strip() or done.stdout.strip() or f"code {done.returncode}").split())
    return Outcome(refused_by=BY_SUDO, reason=reason, fix=fix)


def permission_fix(uuid: str, nvidia_smi: str | None) -> str:
    """The two lines that let this user set power limit and persistence mode of this GPU, and nothing else, by sudo."""
    options = [*(f"-pl {'[0-9]' * count}" for count in (2, 3, 4)), "-pm [01]"]
    commands = ", ".join(f"{nvidia_smi or USUAL_NVIDIA_SMI} -i {uuid} {option}" for option in options)
    rule = f"{getpass.getuser()} ALL=(root) NOPASSWD: {commands}"
    return f"echo '{rule}' | sudo tee -a {SUDOERS_FILE}\nsudo chmod 440 {SUDOERS_FILE} && sudo visudo -c"
