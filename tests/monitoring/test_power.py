"""Power limits: set, clamped, refused with a fix, and always read back."""

import contextlib
import getpass
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from monitoring import privileged
from monitoring.nvml import NvmlGate
from monitoring.power import set_power
from monitoring.wire import AgentFaultError, PowerAnswer
from tests.fakes.gpus import FAKES, FakeGpus
from tests.monitoring.factories import wait_for


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for sudo and nvidia-smi come first in PATH."""
    monkeypatch.setenv("PATH", f"{FAKES}:/usr/bin:/bin")


def limit_of(gate: NvmlGate, uuid: str) -> float | None:
    return gate.power_limits(uuid).current


def test_a_limit_is_set_and_read_back(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(count=2)
    answer = set_power(gate, gpus.uuid(1), 280, strict=False)
    assert answer == {
        "uuid": gpus.uuid(1),
        "asked_watts": 280,
        "applied_watts": 280.0,
        "clamped": False,
        "set": True,
        "method": "nvml",
        "refused_by": None,
        "reason": None,
        "fix": None,
    }
    assert (limit_of(gate, gpus.uuid(0)), limit_of(gate, gpus.uuid(1))) == (350.0, 280.0)


@pytest.mark.parametrize(("asked", "applied"), [(20, 100.0), (900, 366.0)])
def test_a_limit_out_of_range_is_clamped(gpus: FakeGpus, gate: NvmlGate, asked: float, applied: float) -> None:
    answer = set_power(gate, gpus.uuid(0), asked, strict=False)
    assert (answer["set"], answer["clamped"]) == (True, True)
    assert (answer["asked_watts"], answer["applied_watts"]) == (asked, applied)


def test_or_refused_when_asked_strictly(gpus: FakeGpus, gate: NvmlGate) -> None:
    with pytest.raises(AgentFaultError, match="takes a power limit from 100 to 366 W, not 900 W") as caught:
        set_power(gate, gpus.uuid(0), 900, strict=True)
    assert caught.value.fault["code"] == "out_of_range"
    assert limit_of(gate, gpus.uuid(0)) == 350.0


@pytest.mark.usefixtures("tools")
def test_without_root_it_goes_through_sudo(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse="permission", sudo="allowed")
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["method"], answer["applied_watts"]) == (True, "nvidia-smi", 220.0)


@pytest.mark.usefixtures("tools")
def test_a_refusal_names_who_refused_and_the_two_lines_that_mend_it(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse="permission")
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["method"], answer["refused_by"]) == (False, None, "sudo nvidia-smi")
    assert answer["reason"] == "sudo: a password is required"
    assert answer["applied_watts"] == 350.0
    assert answer["fix"] is not None
    first, second = answer["fix"].splitlines()
    assert first.startswith(f"echo '{getpass.getuser()} ALL=(root) NOPASSWD: {FAKES / 'nvidia-smi'} -i {gpus.uuid(0)} ")
    assert "*" not in first  # a wildcard of sudo would let any further argument through
    assert "chmod 440 /etc/sudoers.d/pilothouse-power" in second


def test_a_host_without_sudo_says_so(
    gpus: FakeGpus, gate: NvmlGate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    gpus.set(refuse="permission")
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert answer["reason"] == "Setting a power limit of 220 W needs root, and sudo isn't installed."


def test_a_card_without_a_limit_refuses_for_good(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse="unsupported")
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["refused_by"], answer["fix"]) == (False, "nvml", None)
    assert answer["reason"] == "The driver refused a power limit of 220 W: Not Supported."


def test_what_counts_is_what_the_card_reads_back(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(deaf=1)
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["applied_watts"]) == (False, 350.0)
    assert answer["reason"] == "220 W was accepted, but the card reads back 350 W."


def test_a_lost_gpu_refuses(gpus: FakeGpus, gate: NvmlGate) -> None:
    limit_of(gate, gpus.uuid(0))
    gpus.set_gpu(0, lost=1)
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["applied_watts"], answer["refused_by"]) == (False, None, "nvml")
    assert (answer["reason"] or "").startswith(
        f"GPU 0 (Simulated RTX 3090, {gpus.uuid(0)}) can't be read: GPU is lost. Reboot"
    )


def test_a_hung_driver_refuses_in_time(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(hang="nvmlDeviceSetPowerManagementLimit")
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["refused_by"]) == (False, "nvml")
    assert "doesn't answer" in (answer["reason"] or "")
    gpus.set(hang="")


def test_an_unknown_gpu_and_a_senseless_limit_are_faults(gpus: FakeGpus, gate: NvmlGate) -> None:
    with pytest.raises(AgentFaultError, match="has no GPU GPU-7") as caught:
        set_power(gate, "GPU-7", 220, strict=False)
    assert caught.value.fault["code"] == "unknown_gpu"
    for watts in (0, -5, float("nan"), "220"):
        with pytest.raises(AgentFaultError, match="number of watts"):
            set_power(gate, gpus.uuid(0), watts, strict=False)  # type: ignore[arg-type]


@pytest.mark.usefixtures("tools")
def test_every_card_of_sixteen_is_reached_through_sudo(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse="permission", sudo="allowed", count=16)
    gpus.set_gpu(2, uuid="GPU-ab12")
    assert set_power(gate, gpus.uuid(15), 220, strict=False)["applied_watts"] == 220.0
    assert set_power(gate, "GPU-ab12", 230, strict=False)["applied_watts"] == 230.0
    assert limit_of(gate, gpus.uuid(15)) == 220.0


@pytest.mark.usefixtures("tools")
def test_what_nvidia_smi_says_is_passed_on_and_what_it_only_claims_is_found_out(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse="permission", sudo="allowed", nvidia_smi="fails")
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert answer["reason"] == f"Unable to set the power management limits for GPU {gpus.uuid(0)}: Unknown Error"
    gpus.set(nvidia_smi="unsupported")  # a warning and code 0
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["method"], answer["refused_by"]) == (False, None, "sudo nvidia-smi")
    assert answer["reason"] == "220 W was accepted, but the card reads back 350 W."


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("may_kill", [True, False])
def test_an_nvidia_smi_that_hangs_is_answered_for_in_time_though_it_can_not_be_killed(
    gpus: FakeGpus, gate: NvmlGate, monkeypatch: pytest.MonkeyPatch, may_kill: bool
) -> None:
    """Root's processes are not for an agent without root to kill, and one in the kernel's hands dies for nobody."""
    gpus.set(refuse="permission", sudo="allowed", nvidia_smi="hangs")
    monkeypatch.setattr(privileged, "SUDO_SECONDS", 0.3)
    started: list[subprocess.Popen[str]] = []
    kill = subprocess.Popen.kill

    def try_to_kill(process: subprocess.Popen[str]) -> None:
        started.append(process)
        if not may_kill:
            raise PermissionError(1, "Operation not permitted")
        kill(process)

    monkeypatch.setattr(subprocess.Popen, "kill", try_to_kill)
    answers: list[PowerAnswer] = []
    asking = threading.Thread(
        target=lambda: answers.append(set_power(gate, gpus.uuid(0), 220, strict=False)), daemon=True
    )
    asking.start()
    asking.join(10)
    with contextlib.suppress(ProcessLookupError):  # it died of the kill
        os.kill(started[0].pid, signal.SIGKILL)
    assert answers, "whoever asked waits for a process that doesn't end"
    assert (answers[0]["set"], answers[0]["refused_by"]) == (False, "sudo nvidia-smi")
    assert answers[0]["reason"] == (
        "sudo nvidia-smi hasn't come to an end within 0.3 s: the GPU's driver hangs, most likely."
    )
    wait_for(lambda: started[0].returncode is not None, "somebody reaps it")


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_card_that_vanishes_while_its_limit_is_set_is_named(gpus: FakeGpus, gate: NvmlGate, when: str) -> None:
    gpus.set_gpu(0, vanish=when)
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["applied_watts"], answer["refused_by"]) == (False, None, "nvml")
    assert (answer["reason"] or "").startswith(
        f"The card vanished while its power limit was being set. GPU 0 (Simulated RTX 3090, {gpus.uuid(0)}) "
        "can't be read: GPU is lost. Reboot the host"
    )


def test_a_driver_that_lacks_the_call_is_named(gpus: FakeGpus, gate: NvmlGate) -> None:
    call = "nvmlDeviceSetPowerManagementLimit"
    gpus.set(missing=call)
    answer = set_power(gate, gpus.uuid(0), 220, strict=False)
    assert (answer["set"], answer["applied_watts"], answer["refused_by"]) == (False, 350.0, "nvml")
    assert answer["reason"] == (
        f"The driver refused a power limit of 220 W: this version of the driver has no call {call}."
    )


def test_a_card_that_tells_no_range_and_no_limit_is_taken_at_its_word(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set_gpu(0, limit="none", limit_min="none", limit_max="none")
    answer = set_power(gate, gpus.uuid(0), 220, strict=True)
    assert (answer["set"], answer["clamped"], answer["applied_watts"]) == (False, False, None)
    assert answer["reason"] == "The driver refused a power limit of 220 W: Not Supported."


def test_a_host_without_a_driver_answers_so(gate: NvmlGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAKE_NVML", raising=False)
    answer = set_power(gate, "GPU-0", 220, strict=False)
    assert (answer["set"], answer["refused_by"]) == (False, "nvml")
    assert "river" in (answer["reason"] or "")
