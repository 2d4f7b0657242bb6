"""The gate to NVML, on the real ctypes path with a simulated driver."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monitoring.agent import Agent
from monitoring.cards import reasons_of
from monitoring.nvml import HUNG, NO_LIBRARY, GpuLostError, GpuSnapshot, NvmlGate
from tests.fakes.gpus import FakeGpus
from tests.monitoring.factories import CHECKOUT, COMMANDS, kill_all, make_spec, nobodys, wait_for

CALLS = [
    f"nvmlDeviceGet{name}"
    for name in (
        "MemoryInfo", "MemoryInfo_v2", "UtilizationRates", "Temperature", "TemperatureV", "FanSpeed", "PowerUsage",
        "PowerManagementLimit", "PowerManagementDefaultLimit", "PowerManagementLimitConstraints", "ClockInfo",
        "MaxClockInfo", "PerformanceState", "CurrentClocksEventReasons", "CurrentClocksThrottleReasons",
        "CurrPcieLinkGeneration", "MaxPcieLinkGeneration", "CurrPcieLinkWidth", "MaxPcieLinkWidth", "PcieThroughput",
        "EccMode", "TotalEccErrors", "PersistenceMode", "ComputeRunningProcesses_v3", "GraphicsRunningProcesses_v3",
    )
]  # fmt: skip
"""All that a card can be asked for but who it is."""


def read(gate: NvmlGate) -> GpuSnapshot:
    return gate.read(nobodys)


def test_a_gpu_is_read_in_plain_units(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set_gpu(0, temperature=61, memory_used=2 << 30, power=201500, limit=280000, fan=55, utilization=90)
    gpus.set_gpu(0, clock_sm=1410, clock_memory=9000, performance_state=0, ecc=1, ecc_corrected=3, persistence=1)
    gpus.set_gpu(0, pcie_generation=3, pcie_width=8, pcie_sent=1500, pcie_received=250)
    gpus.set_throttle_reasons(0, "sw_power_cap", "hw_thermal_slowdown")
    read(gate)  # PCIe throughput is measured after the reading
    wait_for(lambda: read(gate).gpus[0]["pcie_sent_bytes_per_second"] is not None)
    snapshot = read(gate)
    assert snapshot.fault is None
    assert snapshot.gpus == [
        {
            "index": 0,
            "uuid": gpus.uuid(0),
            "name": "Simulated RTX 3090",
            "memory_total_bytes": 25757220864,
            "memory_used_bytes": 2 << 30,
            "utilization_gpu_percent": 90,
            "utilization_memory_percent": 45,
            "temperature_celsius": 61,
            "power_draw_watts": 201.5,
            "power_limit_watts": 280.0,
            "power_limit_default_watts": 350.0,
            "power_limit_min_watts": 100.0,
            "power_limit_max_watts": 366.0,
            "fan_speed_percent": 55,
            "clock_sm_mhz": 1410,
            "clock_sm_max_mhz": 2100,
            "clock_memory_mhz": 9000,
            "clock_memory_max_mhz": 9751,
            "performance_state": 0,
            "throttle_reasons": ["sw_power_cap", "hw_thermal_slowdown"],
            "pcie_generation": 3,
            "pcie_generation_max": 4,
            "pcie_width": 8,
            "pcie_width_max": 16,
            "pcie_sent_bytes_per_second": 1_500_000,
            "pcie_received_bytes_per_second": 250_000,
            "ecc_enabled": True,
            "ecc_corrected_count": 3,
            "ecc_uncorrected_count": 0,
            "persistence_mode": True,
            "processes": [],
            "unsupported": [],
            "fault": None,
        }
    ]
    assert gate.versions() == ("550.54.14", "12.4")


def test_a_sensor_that_a_card_lacks_is_none(gpus: FakeGpus, gate: NvmlGate) -> None:
    absent = ("temperature", "fan", "utilization", "power", "limit", "limit_default", "limit_min", "limit_max")
    gpus.set_gpu(0, **dict.fromkeys(absent, "none"))
    snapshot = read(gate)
    values = snapshot.gpus[0]
    assert snapshot.fault is None
    assert values["temperature_celsius"] is values["fan_speed_percent"] is values["power_draw_watts"] is None
    assert values["power_limit_watts"] is values["power_limit_min_watts"] is values["utilization_gpu_percent"] is None
    assert values["memory_used_bytes"] == 1 << 30


def test_what_is_not_supported_is_told_apart_from_an_error_that_passes(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set_gpu(0, fan="none", clock_memory="none", pcie_width_max="none", temperature="fails", clock_sm="fails")
    gpus.set(missing="nvmlDeviceGetCurrPcieLinkGeneration,nvmlDeviceGetPersistenceMode")
    wait_for(lambda: read(gate).gpus[0]["pcie_sent_bytes_per_second"] is not None)
    values = read(gate).gpus[0]
    for field in ("fan_speed_percent", "clock_memory_mhz", "temperature_celsius", "clock_sm_mhz", "persistence_mode"):
        assert values[field] is None
    assert sorted(values["unsupported"]) == [
        "clock_memory_mhz", "ecc_corrected_count", "ecc_enabled", "ecc_uncorrected_count", "fan_speed_percent",
        "pcie_generation", "pcie_width_max", "persistence_mode",
    ]  # fmt: skip
    gpus.set_gpu(0, temperature=50)
    assert read(gate).gpus[0]["temperature_celsius"] == 50


def test_a_card_that_answers_nothing_any_more_is_gone_whatever_the_error(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set_gpu(0, power="fails")  # a quirk of some laptops' sensors
    values = read(gate).gpus[0]
    assert (values["fault"], values["power_draw_watts"], values["temperature_celsius"]) == (None, None, 54)
    gpus.set_gpu(0, memory_used="fails")
    fault = read(gate).gpus[0]["fault"]
    assert fault is not None and "can't be read: Unknown Error. Reboot" in fault


def test_all_that_a_card_lacks_is_named_and_nothing_is_zero(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(missing=",".join(CALLS))
    values = read(gate).gpus[0]
    known = {"index", "uuid", "name", "fault", "processes", "unsupported"}
    # PCIe throughput is asked for after the first reading.
    wait_for(lambda: len(read(gate).gpus[0]["unsupported"]) == len(values) - len(known) + 1)
    values = read(gate).gpus[0]
    assert set(values["unsupported"]) == set(values) - known | {"processes"}
    assert all(values[field] is None for field in values["unsupported"] if field != "processes")  # type: ignore[literal-required]


def test_throttle_reasons_come_by_their_older_name_too(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(missing="nvmlDeviceGetCurrentClocksEventReasons")
    gpus.set_throttle_reasons(0, "hw_power_brake_slowdown", "gpu_idle")
    assert read(gate).gpus[0]["throttle_reasons"] == ["gpu_idle", "hw_power_brake_slowdown"]
    gpus.set_throttle_reasons(0)
    assert read(gate).gpus[0]["throttle_reasons"] == []
    assert reasons_of(1 << 12 | 4) == ["sw_power_cap", "reason_0x1000"]


def test_an_unknown_performance_state_is_none(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set_gpu(0, performance_state=32)
    values = read(gate).gpus[0]
    assert values["performance_state"] is None and "performance_state" not in values["unsupported"]


def test_what_hardly_changes_is_read_of_one_card_a_time(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(count=3)
    assert [gpu["persistence_mode"] for gpu in read(gate).gpus] == [False] * 3
    for index in range(3):
        gpus.set_gpu(index, persistence=1)
    seen = [sum(bool(gpu["persistence_mode"]) for gpu in read(gate).gpus) for _ in range(3)]
    assert seen == [1, 2, 3]


def test_an_old_driver_is_asked_in_the_old_way(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(missing="nvmlDeviceGetTemperatureV,nvmlDeviceGetMemoryInfo_v2,nvmlDeviceGetComputeRunningProcesses_v3")
    values = read(gate).gpus[0]
    assert not {"temperature_celsius", "memory_used_bytes"} & {*values["unsupported"]}
    assert "processes" in values["unsupported"]
    assert values["temperature_celsius"] == 54
    assert values["memory_used_bytes"] == (1 << 30) + 268435456
    assert values["processes"] == []


def test_a_lost_gpu_stays_listed(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(count=2)
    assert len(read(gate).gpus) == 2
    gpus.set_gpu(1, lost=1)
    snapshot = read(gate)
    healthy, lost = snapshot.gpus
    assert healthy["fault"] is None and healthy["temperature_celsius"] == 54
    assert (lost["uuid"], lost["name"]) == (gpus.uuid(1), "Simulated RTX 3090")
    assert lost["temperature_celsius"] is lost["power_draw_watts"] is lost["memory_used_bytes"] is None
    assert snapshot.fault == lost["fault"]
    assert lost["fault"] is not None and "GPU is lost" in lost["fault"] and "Reboot" in lost["fault"]
    gpus.set_gpu(1, lost=0)
    assert read(gate).gpus[1]["fault"] is None


def test_a_gpu_that_was_lost_from_the_beginning_is_named(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(count=2)
    gpus.set_gpu(0, lost=1)
    snapshot = read(gate)
    assert [gpu["index"] for gpu in snapshot.gpus] == [1]
    assert snapshot.fault == "GPU 0: GPU is lost."


def test_a_lost_gpu_may_come_back_with_a_driver_that_is_opened_anew(gpus: FakeGpus) -> None:
    gate = NvmlGate(retry_seconds=0.0)
    gpus.set(count=3)
    read(gate)
    gpus.set(count=2)  # the driver lists what is left under new numbers
    gpus.set_gpu(0, uuid=gpus.uuid(1))
    gpus.set_gpu(1, uuid=gpus.uuid(2))
    snapshot = wait_for(lambda: found if (found := read(gate)).gpus[0]["fault"] else None)
    assert [(gpu["index"], gpu["uuid"]) for gpu in snapshot.gpus] == [(index, gpus.uuid(index)) for index in range(3)]
    assert snapshot.gpus[0]["fault"] and "doesn't list it any more" in snapshot.gpus[0]["fault"]
    wait_for(lambda: [bool(gpu["fault"]) for gpu in read(gate).gpus] == [True, False, False])
    with pytest.raises(GpuLostError, match="GPU 0 "):
        gate.power_limits(gpus.uuid(0))
    gpus.set(count=3)
    gpus.set_gpu(2, uuid=gpus.uuid(0))
    wait_for(lambda: read(gate).fault is None)
    assert [gpu["uuid"] for gpu in read(gate).gpus] == [gpus.uuid(index) for index in range(3)]
    gate.close()


def test_a_driver_that_was_reset_is_opened_anew(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(count=2)
    assert read(gate).fault_since is None
    gpus.set(resets=1)
    before = time.time()
    snapshot = read(gate)
    assert snapshot.fault == "NVIDIA's driver can't be used: Uninitialized."
    assert snapshot.fault_since is not None and snapshot.fault_since >= before
    assert [gpu["fault"] for gpu in snapshot.gpus] == [snapshot.fault] * 2
    snapshot = read(gate)
    assert (snapshot.fault, snapshot.fault_since) == (None, None)
    assert [gpu["temperature_celsius"] for gpu in snapshot.gpus] == [54, 54]


def test_sixteen_gpus_are_read(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(count=16)
    gpus.lose(9)
    assert [gpu["index"] for gpu in read(gate).gpus] == [index for index in range(16) if index != 9]


def test_power_follows_its_curve(gpus: FakeGpus, gate: NvmlGate) -> None:
    now = time.time()
    gpus.set_power_curve(0, [(now - 50, 100.0), (now + 50, 300.0)])
    before = time.time()
    drawn = read(gate).gpus[0]["power_draw_watts"]
    assert drawn is not None
    assert 200.0 + 2 * (before - now) - 0.1 <= drawn <= 200.0 + 2 * (time.time() - now) + 0.1
    gpus.set_power_curve(0, [(now - 50, 100.0), (now - 40, 250.0)])
    assert read(gate).gpus[0]["power_draw_watts"] == 250.0


def test_a_hung_driver_costs_one_deadline_and_comes_back(gpus: FakeGpus, gate: NvmlGate) -> None:
    assert read(gate).fault is None
    gpus.set(hang="nvmlDeviceGetUtilizationRates")
    before = time.monotonic()
    snapshot = read(gate)
    assert 0.3 <= time.monotonic() - before < 2.0
    assert snapshot.fault == HUNG
    assert snapshot.gpus[0]["fault"] == HUNG and snapshot.gpus[0]["temperature_celsius"] is None
    assert snapshot.gpus[0]["power_limit_max_watts"] == 366.0  # what doesn't change is still known
    assert snapshot.fault_since is not None and 0.3 <= time.time() - snapshot.fault_since < 3.0
    before = time.monotonic()
    assert read(gate) == snapshot
    assert time.monotonic() - before < 0.1
    gpus.set(hang="")
    wait_for(lambda: read(gate).fault is None, "the driver's answer")
    assert read(gate).fault_since is None


def test_a_driver_that_is_not_loaded_is_told_and_tried_again(gpus: FakeGpus) -> None:
    gate = NvmlGate(retry_seconds=0.0)
    gpus.set(init="driver_not_loaded")
    before = time.time()
    snapshot = read(gate)
    assert (snapshot.gpus, snapshot.fault) == ([], "NVIDIA's driver can't be used: Driver Not Loaded.")
    assert snapshot.fault_since is not None and snapshot.fault_since >= before
    assert read(gate).fault_since == snapshot.fault_since
    assert gate.versions() == (None, None)
    gpus.set(init="")
    assert len(read(gate).gpus) == 1
    gate.close()


def test_no_library_is_a_sentence() -> None:
    program = "from monitoring.nvml import NvmlGate; print(NvmlGate().read(None))"
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == repr(GpuSnapshot([], NO_LIBRARY))


def test_processes_are_listed_with_the_jobs_that_own_them(gpus: FakeGpus, home: Path, tmp_path: Path) -> None:
    agent = Agent(home, commands=COMMANDS)
    pid = agent.launch(make_spec(42, until=str(tmp_path / "go")), {})["pid"]
    gpus.set_gpu(0, processes=f"{pid}:1048576,{os.getpid()}:2097152,4000000:1")
    agent._monitor.expire()
    own = {item["pid"]: item for item in agent.poll([], 0.0)["reading"]["gpus"][0]["processes"]}
    assert pid is not None
    assert (own[pid]["job_id"], own[pid]["is_ours"], own[pid]["memory_used_bytes"]) == (42, True, 1 << 20)
    assert own[pid]["command"].startswith("python")
    assert (own[os.getpid()]["job_id"], own[os.getpid()]["is_ours"]) == (None, False)
    assert own[4000000] == {**nobodys(4000000, 1), "utilization_sm_percent": 0}
    kill_all(agent)
    agent.shutdown()


def test_the_library_is_found_as_a_real_one_is(nvml_library: Path, tmp_path: Path) -> None:
    gpus = FakeGpus(tmp_path / "nvml.txt")
    gpus.set(count=8)
    program = "from monitoring.nvml import NvmlGate; print(len(NvmlGate().read(None).gpus))"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml_library.parent), "FAKE_NVML": str(gpus.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "8\n"
