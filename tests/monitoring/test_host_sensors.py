"""Disks once each, the network that leaves the host, temperatures, and whether the clock is kept right."""

import ctypes
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from monitoring import host_sensors
from monitoring.host_sensors import (
    NetworkMeter,
    SlowSensors,
    is_clock_synchronized,
    outward_interfaces,
    read_disks,
    read_temperatures,
)
from monitoring.wire import DiskReading

Sensor = namedtuple("Sensor", "label current high critical")
Counted = namedtuple("Counted", "bytes_sent bytes_recv")


def test_the_homes_disk_comes_first_and_every_disk_once(home: Path) -> None:
    home.mkdir()
    disks = read_disks(home)
    assert Path(disks[0]["mount"]).stat().st_dev == home.stat().st_dev
    devices = [Path(disk["mount"]).stat().st_dev for disk in disks]
    assert len(devices) == len(set(devices))
    assert all(0 <= disk["used_bytes"] <= disk["total_bytes"] for disk in disks)


def test_interfaces_with_a_device_count_and_others_only_where_there_is_none(tmp_path: Path) -> None:
    names = ["lo", "docker0", "veth1a2b", "enp3s0", "bond0"]
    assert outward_interfaces(names, tmp_path) == ["enp3s0", "bond0"]  # a container: no devices to be seen
    (tmp_path / "enp3s0" / "device").mkdir(parents=True)
    assert outward_interfaces(names, tmp_path) == ["enp3s0"]  # bond0's bytes are enp3s0's


def test_network_rates_are_measured_between_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    counters: dict[str, Counted] = {"net0": Counted(1000, 5000), "lo": Counted(9, 9)}
    now = [100.0]
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: dict(counters))
    meter = NetworkMeter(lambda: now[0])
    assert meter.read() == []
    counters["net0"] = Counted(3000, 5500)
    now[0] += 0.01
    assert meter.read() == []  # too soon to tell
    now[0] += 1.99
    rates = [{"name": "net0", "received_bytes_per_second": 250.0, "sent_bytes_per_second": 1000.0}]
    assert meter.read() == rates
    counters |= {"net0": Counted(0, 0), "net1": Counted(7, 7)}
    now[0] += 1.0
    assert [(one["name"], one["sent_bytes_per_second"]) for one in meter.read()] == [("net0", 0.0)]


def test_which_interfaces_count_is_looked_up_once_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    now, names = [100.0], [f"eth{number}" for number in range(50)]
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: {name: Counted(0, 0) for name in names})

    def all_of_them(given: list[str]) -> list[str]:
        asked.append(given)
        return given

    monkeypatch.setattr(host_sensors, "outward_interfaces", all_of_them)
    meter = NetworkMeter(lambda: now[0])
    now[0] += 1
    assert len(meter.read()) == 50
    assert asked == [names]


def test_temperatures_are_named_by_chip_and_label(monkeypatch: pytest.MonkeyPatch) -> None:
    chips = {
        "coretemp": [Sensor("Package id 0", 52.0, 80.0, 100.0), Sensor("Core 0", float("nan"), None, None)],
        "nvme": [Sensor("", 38.9, None, None)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips)
    assert read_temperatures() == [
        {"label": "coretemp Package id 0", "celsius": 52.0},
        {"label": "nvme", "celsius": 38.9},
    ]


@pytest.mark.parametrize(
    ("code", "error_microseconds", "expected"),
    [(0, 2500, True), (5, 2500, True), (5, 16_000_000, False), (-1, 0, None)],
)
def test_a_clock_is_kept_right_when_the_kernel_thinks_its_error_small(
    monkeypatch: pytest.MonkeyPatch, code: int, error_microseconds: int, expected: bool | None
) -> None:
    class Kernel:
        def adjtimex(self, pointer: Any) -> int:
            pointer._obj.maxerror = error_microseconds
            return code

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Kernel())
    assert is_clock_synchronized() is expected


def test_this_kernel_can_be_asked_for_its_clock() -> None:
    assert is_clock_synchronized() in (True, False)


def test_a_disk_that_hangs_leaves_the_last_figures_standing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now, go = [100.0], threading.Event()
    sensors = SlowSensors(tmp_path, deadline_seconds=0.2, clock=lambda: now[0])
    first = sensors.read()
    assert first.disks
    assert sensors.read() is first

    def hang(home: Path) -> list[DiskReading]:
        go.wait(10)
        return []

    monkeypatch.setattr(host_sensors, "read_disks", hang)
    now[0] += 10.0
    assert sensors.read() is first
    go.set()
    sensors.close()
