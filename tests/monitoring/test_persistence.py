"""Persistence mode: set, left alone, refused with a fix, and always read back."""

import getpass

import pytest

from monitoring.nvml import NvmlGate
from monitoring.power import set_persistence
from monitoring.wire import AgentFaultError
from tests.fakes.gpus import FAKES, FakeGpus

SET_MODE = "nvmlDeviceSetPersistenceMode"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for sudo and nvidia-smi come first in PATH."""
    monkeypatch.setenv("PATH", f"{FAKES}:/usr/bin:/bin")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_mode_is_set_and_read_back(gpus: FakeGpus, gate: NvmlGate, enabled: bool) -> None:
    gpus.set(count=2)
    gpus.set_gpu(1, persistence=int(not enabled))
    assert set_persistence(gate, gpus.uuid(1), enabled) == {
        "uuid": gpus.uuid(1),
        "asked": enabled,
        "enabled": enabled,
        "set": True,
        "method": "nvml",
        "refused_by": None,
        "reason": None,
        "fix": None,
    }
    assert gate.persistence_mode(gpus.uuid(0)) is False
    assert gate.persistence_mode(gpus.uuid(1)) is enabled


def test_a_mode_that_is_in_force_wants_no_rights(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse_persistence="permission")
    gpus.set_gpu(0, persistence=1)
    answer = set_persistence(gate, gpus.uuid(0), True)
    assert (answer["set"], answer["enabled"], answer["method"], answer["refused_by"]) == (True, True, None, None)


@pytest.mark.usefixtures("tools")
def test_without_root_it_goes_through_sudo(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse_persistence="permission", sudo="allowed", count=16)
    answer = set_persistence(gate, gpus.uuid(13), True)
    assert (answer["set"], answer["method"], answer["enabled"]) == (True, "nvidia-smi", True)


@pytest.mark.usefixtures("tools")
def test_a_refusal_names_who_refused_and_the_two_lines_that_mend_it(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse_persistence="permission")
    answer = set_persistence(gate, gpus.uuid(0), True)
    assert (answer["set"], answer["enabled"], answer["refused_by"]) == (False, False, "sudo nvidia-smi")
    assert answer["reason"] == "sudo: a password is required"
    first, second = (answer["fix"] or "").splitlines()
    assert first.startswith(f"echo '{getpass.getuser()} ALL=(root) NOPASSWD: ")
    assert f"{FAKES / 'nvidia-smi'} -i {gpus.uuid(0)} -pm [01]'" in first
    assert "visudo -c" in second


@pytest.mark.usefixtures("tools")
def test_what_nvidia_smi_says_is_passed_on_and_what_it_only_claims_is_found_out(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(refuse_persistence="permission", sudo="allowed", nvidia_smi="fails")
    answer = set_persistence(gate, gpus.uuid(0), True)
    assert answer["reason"] == f"Unable to set the persistence mode for GPU {gpus.uuid(0)}: Unknown Error"
    gpus.set(nvidia_smi="unsupported")
    answer = set_persistence(gate, gpus.uuid(0), True)
    assert (answer["set"], answer["refused_by"], answer["fix"]) == (False, "sudo nvidia-smi", None)
    assert answer["reason"] == "Persistence mode on was accepted, but the card reads back off."


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"refuse_persistence": "unsupported"}, "The driver refused persistence mode on: Not Supported."),
        (
            {"missing": SET_MODE},
            f"The driver refused persistence mode on: this version of the driver has no call {SET_MODE}.",
        ),
        ({"deaf": 1}, "Persistence mode on was accepted, but the card reads back off."),
        (
            {"0.persistence": "none", "deaf": 1},
            "Persistence mode on was accepted, but the card does not tell its mode.",
        ),
    ],
)
def test_a_driver_that_will_not_or_cannot(
    gpus: FakeGpus, gate: NvmlGate, values: dict[str, object], reason: str
) -> None:
    gpus.set(**values)
    answer = set_persistence(gate, gpus.uuid(0), True)
    assert (answer["set"], answer["method"], answer["refused_by"], answer["fix"]) == (False, None, "nvml", None)
    assert answer["reason"] == reason


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_card_that_vanishes_meanwhile_is_named(gpus: FakeGpus, gate: NvmlGate, when: str) -> None:
    gpus.set_gpu(0, vanish=when)
    answer = set_persistence(gate, gpus.uuid(0), True)
    assert (answer["set"], answer["enabled"], answer["refused_by"]) == (False, None, "nvml")
    assert (answer["reason"] or "").startswith(
        f"The card vanished while its persistence mode was being set. GPU 0 (Simulated RTX 3090, {gpus.uuid(0)}) "
        "can't be read: GPU is lost. Reboot the host"
    )


def test_a_hung_driver_answers_in_time(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.hang(SET_MODE)
    answer = set_persistence(gate, gpus.uuid(0), True)
    assert (answer["set"], answer["enabled"], answer["refused_by"]) == (False, None, "nvml")
    assert "doesn't answer" in (answer["reason"] or "")
    gpus.hang()


def test_an_unknown_gpu_and_a_senseless_mode_are_faults(gpus: FakeGpus, gate: NvmlGate) -> None:
    with pytest.raises(AgentFaultError, match="has no GPU GPU-7") as caught:
        set_persistence(gate, "GPU-7", True)
    assert caught.value.fault["code"] == "unknown_gpu"
    for mode in (1, "on", None):
        with pytest.raises(AgentFaultError, match="true or false"):
            set_persistence(gate, gpus.uuid(0), mode)  # type: ignore[arg-type]
