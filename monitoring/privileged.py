"""Changing what only root may change of a GPU, and saying how it went. Runs in the agent.

NVML first: it works for root. For anyone else, `sudo -n nvidia-smi`, if the host's owner allows just that. Else the
refusal comes with the two lines that the owner has to type.
"""

import contextlib
import getpass
import shutil
import subprocess
import threading
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
        code, said = _run([sudo, "-n", nvidia_smi, "-i", uuid, *option])
    except TimeoutError:
        hangs = f"sudo nvidia-smi hasn't come to an end within {SUDO_SECONDS:g} s: the GPU's driver hangs, most likely."
        return Outcome(refused_by=BY_SUDO, reason=hangs, fix="Reboot the host where it goes on.")
    except OSError as error:
        return Outcome(refused_by=BY_SUDO, reason=f"sudo nvidia-smi can't be started: {error}.", fix=fix)
    if code == 0:
        return Outcome(method="nvidia-smi")
    return Outcome(refused_by=BY_SUDO, reason=" ".join((said or f"code {code}").split()), fix=fix)


def _run(command: list[str]) -> tuple[int, str]:
    """The code, and what was said (on stderr, else on stdout). Raises TimeoutError after SUDO_SECONDS, and OSError.

    Never waits longer: root's process isn't ours to kill, and one that hangs in the driver can't be killed at all. A
    thread reaps it when it ends after all.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, errors = process.communicate(timeout=SUDO_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(PermissionError):
            process.kill()
        threading.Thread(target=process.communicate, name="reaper of nvidia-smi", daemon=True).start()
        raise TimeoutError from None
    return process.returncode, errors.strip() or output.strip()


def permission_fix(uuid: str, nvidia_smi: str | None) -> str:
    """The two lines that let this user set power limit and persistence mode of this GPU, and nothing else, by sudo."""
    options = [*(f"-pl {'[0-9]' * count}" for count in (2, 3, 4)), "-pm [01]"]
    commands = ", ".join(f"{nvidia_smi or USUAL_NVIDIA_SMI} -i {uuid} {option}" for option in options)
    rule = f"{getpass.getuser()} ALL=(root) NOPASSWD: {commands}"
    return f"echo '{rule}' | sudo tee -a {SUDOERS_FILE}\nsudo chmod 440 {SUDOERS_FILE} && sudo visudo -c"
