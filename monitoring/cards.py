"""One GPU as NVML tells it: what stays, what changes, and what the card or the driver doesn't have.

Runs in the agent, in the thread of the gate (`monitoring.nvml`), which hands over the pynvml module. What each field
costs decides how often it is read:

- once, when a card is found: name, memory, the range of its power limit, the highest clocks, what its PCIe slot can do;
- every second: power, limit, memory, utilisation, temperature, fan, clocks, throttle reasons, processes and their use;
- one card a second, in turn: ECC, persistence mode and the PCIe link, which hardly ever change;
- one card a second, in turn, after the reading has been handed over: PCIe throughput, for which NVML itself watches the
  bus for 20 ms per direction. Eight cards have figures of the last eight seconds, and no reading waits for them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from monitoring.process_use import sm_percents
from monitoring.wire import GpuProcess, GpuReading

T = TypeVar("T")
DescribeProcess = Callable[[int, int | None], GpuProcess]
"""From a pid and the bytes of GPU memory that it holds (None: not known)."""

LOST = ("GPU_IS_LOST", "RESET_REQUIRED", "UNINITIALIZED", "GPU_NOT_FOUND")
"""Errors that say that the card is gone, whatever was asked."""

NOT_THERE = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "VGPU_ECC_NOT_SUPPORTED", "ARGUMENT_VERSION_MISMATCH")
"""Errors that say: this card or this driver doesn't have it. Any other one may pass."""

REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
"""NVML's clocks-event reasons by their bits."""

UNKNOWN_PERFORMANCE_STATE = 32
PCIE_BYTES = 1000
"""NVML counts PCIe throughput in KB/s."""


@dataclass(frozen=True, eq=False)
class Card:
    """A GPU that was found. `fixed`: what doesn't change, as a reading in which all the rest is unknown."""

    handle: Any
    fixed: GpuReading

    @property
    def uuid(self) -> str:
        return self.fixed["uuid"]

    @property
    def name(self) -> str:
        return self.fixed["name"]

    def lost(self, error: object) -> str:
        """What is to be said of a card that is gone."""
        return (
            f"GPU {self.fixed['index']} ({self.name}, {self.uuid}) can't be read: {error}. "
            "Reboot the host; if it comes back lost, check its seat and its power cable."
        )


class Questions:
    """Asks about one card and notes in `unsupported` the fields that it doesn't have."""

    def __init__(self, nvml: Any, unsupported: list[str]) -> None:
        self._nvml = nvml
        self.unsupported = unsupported
        self.passing_errors: list[Exception] = []

    def ask(self, fields: str, *ways: Callable[[], T]) -> T | None:
        """The answer of the first way (a newer call, an older one) that has one, or None.

        `fields`: what it fills in, separated by blanks; noted where no way is there. Raises NVMLError for a lost card.
        """
        passing = None
        for way in ways:
            try:
                return way()
            except self._nvml.NVMLError as error:
                if is_one_of(self._nvml, error, *LOST):
                    raise
                if not is_one_of(self._nvml, error, *NOT_THERE):
                    passing = error
        if passing is None:
            self.unsupported.extend(fields.split())
        else:
            self.passing_errors.append(passing)
        return None


def is_one_of(nvml: Any, error: Any, *names: str) -> bool:
    """Whether an NVMLError is one of these, named as NVML_ERROR_* has them."""
    return error.value in {getattr(nvml, f"NVML_ERROR_{name}", None) for name in names}


def find_card(nvml: Any, handle: Any, index: int) -> Card:
    """Reads what stays. Raises NVMLError for a card that isn't there."""
    reading = empty_reading(index, nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle))
    ask = Questions(nvml, reading["unsupported"]).ask
    memory = ask("memory_total_bytes", *_memory_ways(nvml, handle))
    limits = ask(
        "power_limit_min_watts power_limit_max_watts",
        lambda: nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle),
    )
    default = ask("power_limit_default_watts", lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
    clocks = nvml.nvmlDeviceGetMaxClockInfo
    reading["memory_total_bytes"] = memory.total if memory else None
    reading["power_limit_default_watts"] = watts(default)
    reading["power_limit_min_watts"] = watts(limits[0]) if limits else None
    reading["power_limit_max_watts"] = watts(limits[1]) if limits else None
    reading["clock_sm_max_mhz"] = ask("clock_sm_max_mhz", lambda: int(clocks(handle, nvml.NVML_CLOCK_SM)))
    reading["clock_memory_max_mhz"] = ask("clock_memory_max_mhz", lambda: int(clocks(handle, nvml.NVML_CLOCK_MEM)))
    reading["pcie_generation_max"] = ask(
        "pcie_generation_max", lambda: int(nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle))
    )
    reading["pcie_width_max"] = ask("pcie_width_max", lambda: int(nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)))
    return Card(handle, reading)


def read_often(nvml: Any, card: Card, describe: DescribeProcess) -> GpuReading:
    """What changes by the second. Raises NVMLError for a lost card."""
    handle = card.handle
    reading: GpuReading = {**card.fixed, "unsupported": [*card.fixed["unsupported"]], "processes": []}
    questions = Questions(nvml, reading["unsupported"])
    ask = questions.ask
    power = ask("power_draw_watts", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    memory = ask("memory_used_bytes", *_memory_ways(nvml, handle))
    if len(questions.passing_errors) == 2:
        # One such error may pass, or be a quirk of that sensor; a card that answers neither question is gone.
        raise questions.passing_errors[0]
    use = ask("utilization_gpu_percent utilization_memory_percent", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    limit = ask("power_limit_watts", lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle))
    reading["power_draw_watts"] = watts(power)
    reading["power_limit_watts"] = watts(limit)
    reading["memory_used_bytes"] = memory.used if memory else None
    reading["utilization_gpu_percent"] = use.gpu if use else None
    reading["utilization_memory_percent"] = use.memory if use else None
    reading["temperature_celsius"] = ask("temperature_celsius", *_temperature_ways(nvml, handle))
    reading["fan_speed_percent"] = ask("fan_speed_percent", lambda: int(nvml.nvmlDeviceGetFanSpeed(handle)))
    _read_clocks(nvml, handle, reading, ask)
    reading["processes"] = _read_processes(nvml, handle, ask, describe)
    return reading


def _read_clocks(nvml: Any, handle: Any, reading: GpuReading, ask: Callable[..., Any]) -> None:
    clocks = nvml.nvmlDeviceGetClockInfo
    reading["clock_sm_mhz"] = ask("clock_sm_mhz", lambda: int(clocks(handle, nvml.NVML_CLOCK_SM)))
    reading["clock_memory_mhz"] = ask("clock_memory_mhz", lambda: int(clocks(handle, nvml.NVML_CLOCK_MEM)))
    state = ask("performance_state", lambda: int(nvml.nvmlDeviceGetPerformanceState(handle)))
    reading["performance_state"] = None if state == UNKNOWN_PERFORMANCE_STATE else state
    bits = ask(
        "throttle_reasons",
        lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),  # its name before driver 535
    )
    reading["throttle_reasons"] = None if bits is None else reasons_of(bits)


def reasons_of(bits: int) -> list[str]:
    """Clocks-event reasons in words; one that NVML learned since is called by its bit."""
    return [REASONS.get(1 << bit, f"reason_{1 << bit:#x}") for bit in range(bits.bit_length()) if bits >> bit & 1]


@dataclass(frozen=True)
class Facts:
    """Values of some fields, kept for a while, and which of them the card doesn't have."""

    values: dict[str, Any]
    unsupported: list[str]

    def fill_in(self, reading: GpuReading) -> None:
        reading.update(self.values)  # type: ignore[typeddict-item] # the keys are those of read_rarely and measure_pcie
        reading["unsupported"].extend(self.unsupported)


def read_rarely(nvml: Any, card: Card) -> Facts:
    """What hardly ever changes. Raises NVMLError for a lost card."""
    handle, unsupported = card.handle, list[str]()
    ask = Questions(nvml, unsupported).ask

    def count(error_type: int) -> int:
        return int(nvml.nvmlDeviceGetTotalEccErrors(handle, error_type, nvml.NVML_VOLATILE_ECC))

    values = {
        "pcie_generation": ask("pcie_generation", lambda: int(nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle))),
        "pcie_width": ask("pcie_width", lambda: int(nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))),
        "ecc_enabled": ask("ecc_enabled", lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
        "ecc_corrected_count": ask("ecc_corrected_count", lambda: count(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED)),
        "ecc_uncorrected_count": ask("ecc_uncorrected_count", lambda: count(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)),
        "persistence_mode": ask("persistence_mode", lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle))),
    }
    return Facts(values, unsupported)


def measure_pcie(nvml: Any, card: Card) -> Facts:
    """PCIe throughput; takes NVML 20 ms per direction. Raises NVMLError for a lost card."""
    unsupported = list[str]()
    ask = Questions(nvml, unsupported).ask

    def throughput(counter: int) -> int:
        return int(nvml.nvmlDeviceGetPcieThroughput(card.handle, counter)) * PCIE_BYTES

    sent, received = "pcie_sent_bytes_per_second", "pcie_received_bytes_per_second"
    values = {
        sent: ask(sent, lambda: throughput(nvml.NVML_PCIE_UTIL_TX_BYTES)),
        received: ask(received, lambda: throughput(nvml.NVML_PCIE_UTIL_RX_BYTES)),
    }
    return Facts(values, unsupported)


def _memory_ways(nvml: Any, handle: Any) -> tuple[Callable[[], Any], ...]:
    """Version 2 keeps what the driver reserves apart from what is used; older drivers lack it."""
    return (
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
    )


def _temperature_ways(nvml: Any, handle: Any) -> tuple[Callable[[], int], ...]:
    core = nvml.NVML_TEMPERATURE_GPU
    return (
        lambda: int(nvml.nvmlDeviceGetTemperatureV(handle, core)),
        lambda: int(nvml.nvmlDeviceGetTemperature(handle, core)),
    )


def _read_processes(nvml: Any, handle: Any, ask: Callable[..., Any], describe: DescribeProcess) -> list[GpuProcess]:
    compute = ask("processes", lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)) or []
    graphics = ask("", lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)) or []
    used = {item.pid: item.usedGpuMemory for item in [*graphics, *compute]}
    if not used:
        return []
    sm_percent = sm_percents(nvml, handle, ask, time.time())
    return [
        {**describe(pid, memory), "utilization_sm_percent": sm_percent(pid)} for pid, memory in sorted(used.items())
    ]


def watts(milliwatts: int | None) -> float | None:
    """NVML counts in milliwatts."""
    return None if milliwatts is None else milliwatts / 1000


def empty_reading(index: int, uuid: str, name: str) -> GpuReading:
    """A reading of which nothing is known but whose it is."""
    return GpuReading(
        index=index,
        uuid=uuid,
        name=name,
        memory_total_bytes=None,
        memory_used_bytes=None,
        utilization_gpu_percent=None,
        utilization_memory_percent=None,
        temperature_celsius=None,
        power_draw_watts=None,
        power_limit_watts=None,
        power_limit_default_watts=None,
        power_limit_min_watts=None,
        power_limit_max_watts=None,
        fan_speed_percent=None,
        clock_sm_mhz=None,
        clock_sm_max_mhz=None,
        clock_memory_mhz=None,
        clock_memory_max_mhz=None,
        performance_state=None,
        throttle_reasons=None,
        pcie_generation=None,
        pcie_generation_max=None,
        pcie_width=None,
        pcie_width_max=None,
        pcie_sent_bytes_per_second=None,
        pcie_received_bytes_per_second=None,
        ecc_enabled=None,
        ecc_corrected_count=None,
        ecc_uncorrected_count=None,
        persistence_mode=None,
        processes=[],
        unsupported=[],
        fault=None,
    )
