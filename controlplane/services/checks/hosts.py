"""Whether a host's agent answers, and what it says of driver, clock and power. Runs in commands and in the web process.

What only root could find out is looked at on this machine alone: of other hosts' power rights the last attempt tells.
"""

import os
import pwd
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from controlplane.fleet.protocol import (
    AgentRefusedError,
    Carrier,
    GpuReading,
    HostFacts,
    HostReading,
    HostUnreachableError,
)
from controlplane.services.checks import versions
from controlplane.services.checks.finding import Check, Finding, run

SECONDS = 15.0
SKEW_WARN_SECONDS = 1.0
SKEW_FAIL_SECONDS = 60.0
NVIDIA = "0x10de"
CONTROL_DEVICE = Path("/dev/nvidiactl")
PCI = Path("/sys/bus/pci/devices")
DISPLAY_CLASSES = ("0x0300", "0x0302")
SETUP = "Run deploy/setup-host there as root"


@dataclass(frozen=True)
class Patient:
    """A host to be looked at. `is_here`: it is this machine. `answers`: each card's last `PowerAnswer`, by UUID."""

    name: str
    carrier: Carrier
    is_here: bool
    answers: dict[str, dict[str, Any] | None]


def check(patient: Patient) -> Check:
    """Everything about one host."""
    return Check(f"agent on {patient.name}", SECONDS, lambda: _look(patient))


def _look(patient: Patient) -> list[Finding]:
    name = f"agent on {patient.name}"
    try:
        facts = patient.carrier.describe()
        before = time.time()
        answer = patient.carrier.poll([], 0.0)
        after = time.time()
    except HostUnreachableError as error:
        fix = "Start it: systemctl start pilothouse-agent, or bin/up. Its log is logs/agent.log in the home."
        return [Finding(name, "fail", str(error), fix), *_without_agent(patient)]
    except AgentRefusedError as error:
        return [Finding(name, "fail", error.message, error.fix or "Update the agent and start it again.")]
    reading = answer["reading"]
    cards = [gpu["name"] for gpu in reading["gpus"]]
    return [
        _agent(name, facts),
        _driver(patient, facts, reading),
        versions.cuda(f"cuda on {patient.name}", facts["cuda_driver_version"], cards, versions.torch_cuda()),
        *_clock(patient, reading, answer["now"] - (before + after) / 2),
        *[finding for gpu in reading["gpus"] for finding in _card(patient, facts, gpu)],
    ]


def _agent(name: str, facts: HostFacts) -> Finding:
    ours = version("pilothouse")
    found = f"Pid {facts['agent_pid']}, version {facts['agent_version']}."
    if facts["agent_version"] != ours:
        fix = "Start it again with this version: systemctl restart pilothouse-agent (jobs go on)."
        return Finding(name, "warn", f"{found} This program is {ours}.", fix)
    return Finding(name, "ok", found)


def _driver(patient: Patient, facts: HostFacts, reading: HostReading) -> Finding:
    name = f"driver on {patient.name}"
    if reading["gpu_fault_since"] is not None:
        since = time.strftime("%H:%M:%S", time.localtime(reading["gpu_fault_since"]))
        fix = "Look into dmesg for Xid lines; a reboot of the host usually brings it back."
        return Finding(name, "fail", f"The driver doesn't answer since {since}: {reading['gpu_fault']}", fix)
    if not reading["gpus"] and patient.is_here and cards_on_the_bus() == 0:
        return Finding(name, "ok", "No NVIDIA card is in this machine: everything runs on the processor.")
    if reading["gpu_fault"] is not None or not reading["gpus"]:
        fix = "Install NVIDIA's driver, or reboot after an update of it: nvidia-smi must list the cards."
        is_missing = patient.is_here or facts["driver_version"] is not None
        return Finding(name, "fail" if is_missing else "warn", reading["gpu_fault"] or "No GPU is listed.", fix)
    cards = ", ".join(f"{gpu['index']} {gpu['name']}" for gpu in reading["gpus"])
    return Finding(name, "ok", f"NVML of driver {facts['driver_version']} reads GPU {cards}.")


def cards_on_the_bus(devices: Path = PCI) -> int:
    """How many NVIDIA cards the kernel sees on this machine, driver or not."""
    found = 0
    for device in devices.glob("*"):
        try:
            is_ours = (device / "vendor").read_text().strip() == NVIDIA
            found += is_ours and (device / "class").read_text().startswith(DISPLAY_CLASSES)
        except OSError:
            continue
    return found


def _clock(patient: Patient, reading: HostReading, skew_seconds: float) -> list[Finding]:
    name = f"clock of {patient.name}"
    fix = f"{SETUP}, or turn time synchronisation on: timedatectl set-ntp true."
    if abs(skew_seconds) > SKEW_WARN_SECONDS:
        state = "fail" if abs(skew_seconds) > SKEW_FAIL_SECONDS else "warn"
        way = "ahead of" if skew_seconds > 0 else "behind"
        found = f"It runs {abs(skew_seconds):.1f} s {way} the web server's: curves and energy get wrong times."
        return [Finding(name, "fail" if state == "fail" else "warn", found, fix)]
    synchronized = reading["clock_synchronized"]
    if synchronized is None and patient.is_here:
        synchronized = _timedatectl()
    if synchronized is None:
        return [Finding(name, "warn", "Whether a time source disciplines it is not known.", fix)]
    if not synchronized:
        return [Finding(name, "warn", "No time source disciplines it: it will drift.", fix)]
    return [Finding(name, "ok", f"Synchronised; {abs(skew_seconds) * 1000:.0f} ms from the web server's.")]


def _timedatectl() -> bool | None:
    code, said = run(["timedatectl", "show", "-p", "NTPSynchronized", "--value"])
    return {"yes": True, "no": False}.get(said) if code == 0 else None


# --- Cards ------------------------------------------------------------------------------------------------------------


def _card(patient: Patient, facts: HostFacts, gpu: GpuReading) -> list[Finding]:
    name = f"GPU {gpu['index']} on {patient.name}"
    if gpu["fault"]:
        return [Finding(name, "fail", gpu["fault"], "See dmesg for Xid lines; reboot, then check seat and power.")]
    return [*_persistence(name, gpu), _power(f"power of {name}", patient, facts, gpu)]


def _persistence(name: str, gpu: GpuReading) -> list[Finding]:
    if gpu["persistence_mode"] is not False:
        return []
    found = "Persistence mode is off: without a client the driver unloads, and the power limit is forgotten."
    return [Finding(name, "warn", found, f"{SETUP}, or: nvidia-smi -pm 1.")]


def _power(name: str, patient: Patient, facts: HostFacts, gpu: GpuReading) -> Finding:
    if gpu["power_limit_min_watts"] is None:
        return Finding(name, "ok", "This card has no power limit that can be set.")
    if patient.is_here and not _may_gain_no_rights():
        return _power_here(name, facts, gpu)
    last = patient.answers.get(gpu["uuid"])
    if last is None:
        return Finding(name, "ok", "No limit has been set yet; the first attempt will tell.")
    if last.get("set"):
        return Finding(name, "ok", f"The last limit was set ({last.get('method')}).")
    return Finding(name, "warn", str(last.get("reason") or "The last limit was refused."),
                   str(last.get("fix") or SETUP + "."))  # fmt: skip


def _may_gain_no_rights() -> bool:
    """Whether this process is one of a hardened service, which sudo answers nothing (NoNewPrivileges)."""
    return "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()


def _power_here(name: str, facts: HostFacts, gpu: GpuReading) -> Finding:
    """Whether the agent's user may set the limit: asked of sudo's own rules, nothing is set."""
    try:
        owner = Path(f"/proc/{facts['agent_pid']}").stat().st_uid
    except OSError:
        return Finding(name, "warn", "The agent has just ended, so its user isn't known.", "Ask again.")
    if owner == 0:
        return Finding(name, "ok", "The agent runs as root, so NVML obeys it.")
    watts = round(gpu["power_limit_default_watts"] or gpu["power_limit_watts"] or 100)
    user = _user(owner)
    said = may_set(user, owner, gpu["uuid"], watts)
    if said is None:
        return Finding(name, "ok", f"sudo lets {user} set the limit of this card, and asks no password.")
    return Finding(name, "warn", f"{user} may not set the limit: {said}.", f"{SETUP}: it installs the sudoers file.")


def may_set(user: str, uid: int, gpu_uuid: str, watts: int) -> str | None:
    """Why sudo wouldn't let a user set a card's limit; None where it would. Asks for the rule, and sets nothing."""
    sudo, nvidia_smi = shutil.which("sudo"), shutil.which("nvidia-smi")
    if sudo is None or nvidia_smi is None:
        return f"{'sudo' if sudo is None else 'nvidia-smi'} isn't installed"
    whose: Sequence[str] = () if uid == os.geteuid() else ("-U", user)
    code, said = run([sudo, "-n", "-l", *whose, nvidia_smi, "-i", gpu_uuid, "-pl", str(watts)])
    if code == 0:
        return None
    return said.rstrip(".") or "no rule of sudo's allows it"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _without_agent(patient: Patient) -> list[Finding]:
    """What this machine tells itself where its agent doesn't answer."""
    if not patient.is_here or cards_on_the_bus() == 0:
        return []
    if _may_gain_no_rights() and not CONTROL_DEVICE.exists():
        return []  # a service without devices (PrivateDevices): whether the driver is well can't be seen from here
    name = f"driver on {patient.name}"
    code, said = run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    if code == 0:
        return [Finding(name, "ok", f"nvidia-smi answers: driver {said.split()[0] if said else 'unknown'}.")]
    return [Finding(name, "fail", f"{said}.", "Install NVIDIA's driver, or reboot after an update of it.")]
