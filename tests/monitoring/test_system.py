"""Readings of the host: sensible figures, the last one kept until something is changed."""

import os
import threading
from pathlib import Path

import pytest

from monitoring.cards import DescribeProcess
from monitoring.nvml import NvmlGate
from monitoring.system import HostMonitor, host_facts
from tests.fakes.gpus import FakeGpus
from tests.monitoring.factories import nobodys, wait_for


@pytest.fixture
def monitor(home: Path, gate: NvmlGate) -> HostMonitor:
    """A monitor of this host that knows of no jobs."""
    home.mkdir()
    return HostMonitor(home, gate, lambda: nobodys)


def test_a_reading_has_this_hosts_figures(monitor: HostMonitor) -> None:
    reading = monitor.reading()
    assert reading["cpu_count"] == os.cpu_count()
    assert 0 <= reading["cpu_percent"] <= 100
    assert 0 < reading["memory_used_bytes"] < reading["memory_total_bytes"]
    assert 0 <= reading["swap_used_bytes"] <= reading["swap_total_bytes"]
    assert reading["disks"]
    assert reading["gpus"] == []
    assert reading["gpu_fault"]


def test_a_reading_is_kept_until_something_is_changed(monitor: HostMonitor) -> None:
    first = monitor.reading()
    assert monitor.reading() is first
    taken = monitor.take()
    assert monitor.reading() is taken is not first
    monitor.expire()
    assert monitor.reading() is not taken


def test_a_reading_that_began_before_a_change_is_not_kept(gpus: FakeGpus, home: Path, gate: NvmlGate) -> None:
    home.mkdir()
    began, go = threading.Event(), threading.Event()

    def describer() -> DescribeProcess:
        began.set()
        go.wait(10)
        return nobodys

    monitor = HostMonitor(home, gate, describer)
    old = []
    thread = threading.Thread(target=lambda: old.append(monitor.take()))
    thread.start()
    assert began.wait(10)
    monitor.expire()
    go.set()
    thread.join(10)
    assert monitor.reading() is not old[0]


def test_the_processor_is_measured_between_readings_of_any_thread(monitor: HostMonitor) -> None:
    spin_until = os.times().user + 0.3
    while os.times().user < spin_until:
        pass
    percents: list[float] = []
    thread = threading.Thread(target=lambda: percents.append(monitor.take()["cpu_percent"]))
    thread.start()
    thread.join()
    assert percents[0] > 100 / (os.cpu_count() or 1) / 3


def test_a_hung_driver_leaves_the_rest_of_the_reading(gpus: FakeGpus, monitor: HostMonitor) -> None:
    gpus.hang("nvmlDeviceGetCount_v2")
    reading = monitor.take()
    assert reading["memory_total_bytes"] > 0
    assert reading["gpu_fault"] and reading["gpu_fault_since"] is not None
    assert reading["time"] - 5 < reading["gpu_fault_since"] <= reading["time"]
    gpus.hang()
    assert wait_for(lambda: monitor.take()["gpu_fault"] is None)


def test_facts(home: Path, gate: NvmlGate) -> None:
    facts = host_facts(home, gate, started_at=5.0)
    assert facts["agent_pid"] == os.getpid()
    assert facts["home"] == str(home)
    assert facts["started_at"] == 5.0
    assert facts["cpu_name"] and facts["boot_id"] and facts["name"]
