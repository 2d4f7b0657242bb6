"""Readings of the host: sensible figures, disks once each, at most one reading a second."""

import os
import threading
from pathlib import Path

from monitoring.nvml import NvmlGate
from monitoring.system import HostMonitor, host_facts, read_disks


def test_a_reading_has_this_hosts_figures(home: Path, gate: NvmlGate) -> None:
    home.mkdir()
    reading = HostMonitor(home, gate).reading(lambda pid: None)
    assert reading["cpu_count"] == os.cpu_count()
    assert 0 <= reading["cpu_percent"] <= 100
    assert 0 < reading["memory_used_bytes"] < reading["memory_total_bytes"]
    assert reading["gpus"] == []
    assert reading["gpu_fault"]


def test_the_homes_disk_comes_first_and_every_disk_once(home: Path) -> None:
    home.mkdir()
    disks = read_disks(home)
    assert Path(disks[0]["mount"]).stat().st_dev == home.stat().st_dev
    devices = [Path(disk["mount"]).stat().st_dev for disk in disks]
    assert len(devices) == len(set(devices))
    assert all(0 <= disk["used_bytes"] <= disk["total_bytes"] for disk in disks)


def test_readings_are_a_second_apart(home: Path, gate: NvmlGate) -> None:
    home.mkdir()
    now = [100.0]
    monitor = HostMonitor(home, gate, clock=lambda: now[0])
    first = monitor.reading(lambda pid: None)
    now[0] += 0.9
    assert monitor.reading(lambda pid: None) is first
    monitor.expire()
    second = monitor.reading(lambda pid: None)
    assert second is not first
    now[0] += 1.0
    assert monitor.reading(lambda pid: None) is not second


def test_the_processor_is_measured_between_readings_of_any_thread(home: Path, gate: NvmlGate) -> None:
    home.mkdir()
    now = [100.0]
    monitor = HostMonitor(home, gate, clock=lambda: now[0])
    spin_until = os.times().user + 0.3
    while os.times().user < spin_until:
        pass
    percents: list[float] = []
    thread = threading.Thread(target=lambda: percents.append(monitor.reading(lambda pid: None)["cpu_percent"]))
    thread.start()
    thread.join()
    assert percents[0] > 100 / (os.cpu_count() or 1) / 3


def test_facts(home: Path, gate: NvmlGate) -> None:
    facts = host_facts(home, gate, started_at=5.0)
    assert facts["agent_pid"] == os.getpid()
    assert facts["home"] == str(home)
    assert facts["started_at"] == 5.0
    assert facts["cpu_name"] and facts["boot_id"] and facts["name"]
