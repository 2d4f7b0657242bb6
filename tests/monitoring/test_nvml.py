"""The gate to NVML, on the real ctypes path with a simulated driver."""

import os
import subprocess
import sys
import time
from pathlib import Path

from monitoring.agent import Agent
from monitoring.nvml import HUNG, NO_LIBRARY, GpuSnapshot, NvmlGate
from tests.fakes.gpus import FakeGpus
from tests.monitoring.factories import CHECKOUT, COMMANDS, kill_all, make_spec, nobodys, wait_for


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


def test_an_old_driver_is_asked_in_the_old_way(gpus: FakeGpus, gate: NvmlGate) -> None:
    gpus.set(missing="nvmlDeviceGetTemperatureV,nvmlDeviceGetMemoryInfo_v2,nvmlDeviceGetComputeRunningProcesses_v3")
    values = read(gate).gpus[0]
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


def test_a_hung_driver_costs_one_deadline_and_comes_back(gpus: FakeGpus, gate: NvmlGate) -> None:
    assert read(gate).fault is None
    gpus.set(hang="nvmlDeviceGetUtilizationRates")
    before = time.monotonic()
    snapshot = read(gate)
    assert 0.3 <= time.monotonic() - before < 2.0
    assert snapshot.fault == HUNG
    assert snapshot.gpus[0]["fault"] == HUNG and snapshot.gpus[0]["temperature_celsius"] is None
    before = time.monotonic()
    assert read(gate).fault == HUNG
    assert time.monotonic() - before < 0.1
    gpus.set(hang="")
    wait_for(lambda: read(gate).fault is None, "the driver's answer")


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
    own = {item["pid"]: item for item in agent.poll([], 0.0)["reading"]["gpus"][0]["processes"]}
    assert pid is not None
    assert (own[pid]["job_id"], own[pid]["is_ours"], own[pid]["memory_used_bytes"]) == (42, True, 1 << 20)
    assert own[pid]["command"].startswith("python")
    assert (own[os.getpid()]["job_id"], own[os.getpid()]["is_ours"]) == (None, False)
    assert own[4000000] == nobodys(4000000, 1)
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
