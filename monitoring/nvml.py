"""The one gate to NVIDIA's management library: reads GPUs, sets their power limit, and never blocks for long.

Runs in the agent; nothing else imports pynvml. Every call happens in one thread of its own with a deadline: a hung
driver costs one deadline, once, and is told as a fault. Terms, enums and units are NVML's
(https://docs.nvidia.com/deploy/nvml-api/), turned into plain bytes, watts and percent at this gate.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from monitoring.wire import GpuProcess, GpuReading

T = TypeVar("T")
JobOfPid = Callable[[int], int | None]

DEADLINE_SECONDS = 3.0
RETRY_SECONDS = 30.0
"""How often a host whose driver could not be opened is tried again."""

NO_LIBRARY = "No NVIDIA driver on this host (libnvidia-ml.so.1 not found)."
HUNG = "The NVIDIA driver doesn't answer. Running jobs are left alone; a reboot usually brings it back."


class NvmlFaultError(Exception):
    """Why NVML can't be asked, as a sentence."""


class NvmlRefusedError(Exception):
    """NVML refused a change. `permission`: it would have obeyed root."""

    def __init__(self, reason: str, *, permission: bool = False) -> None:
        super().__init__(reason)
        self.permission = permission


class UnknownGpuError(Exception):
    """No GPU of this host has this UUID."""


@dataclass(frozen=True)
class PowerLimits:
    """A card's power limits in watts; None where the card doesn't tell."""

    name: str
    current: float | None
    default: float | None
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True)
class GpuSnapshot:
    """All GPUs of the host, and why some or all can't be read."""

    gpus: list[GpuReading]
    fault: str | None


@dataclass(frozen=True)
class _Card:
    """What doesn't change about a GPU: read once."""

    index: int
    handle: Any
    uuid: str
    name: str
    memory_total: int | None
    limit_default: float | None
    limit_min: float | None
    limit_max: float | None


class NvmlGate:
    """NVML in a thread of its own. `close()` lets the thread end; a hung one is a daemon and holds nobody up."""

    def __init__(self, deadline_seconds: float = DEADLINE_SECONDS, retry_seconds: float = RETRY_SECONDS) -> None:
        self._caller = _DeadlineCaller(deadline_seconds)
        self._retry_seconds = retry_seconds
        self._nvml: Any = None
        self._closed_until = 0.0
        self._fault = NO_LIBRARY
        self._cards: dict[int, _Card] = {}
        self._last: list[GpuReading] = []

    def read(self, job_of_pid: JobOfPid) -> GpuSnapshot:
        """One reading of every GPU. Never raises: what can't be read is None, and the fault says why."""
        try:
            snapshot = self._caller.call(lambda: self._read(job_of_pid))
        except NvmlFaultError as fault:
            return GpuSnapshot([_unread(gpu, str(fault)) for gpu in self._last], str(fault))
        self._last = snapshot.gpus
        return snapshot

    def versions(self) -> tuple[str | None, str | None]:
        """The driver's version and the newest CUDA version that it supports ("12.4"), or None each."""
        try:
            return self._caller.call(self._versions)
        except NvmlFaultError:
            return None, None

    def power_limits(self, uuid: str) -> PowerLimits:
        """The limits of one card. Raises UnknownGpuError or NvmlFaultError."""
        return self._caller.call(lambda: self._power_limits(uuid))

    def set_power_limit(self, uuid: str, watts: float) -> None:
        """Asks NVML for a limit. Raises NvmlRefusedError, UnknownGpuError or NvmlFaultError."""
        self._caller.call(lambda: self._set_power_limit(uuid, watts))

    def close(self) -> None:
        """Ends the thread; the gate can't be used afterwards."""
        self._caller.close()

    # --- Below here everything runs in the gate's thread ---

    def _open(self) -> Any:
        """The initialised pynvml module. Raises NvmlFaultError; a failure is remembered for a while."""
        if self._nvml is not None:
            return self._nvml
        if time.monotonic() < self._closed_until:
            raise NvmlFaultError(self._fault)
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._fault = NO_LIBRARY if _is(error, "LIBRARY_NOT_FOUND") else f"NVIDIA's driver can't be used: {error}."
            self._closed_until = time.monotonic() + self._retry_seconds
            raise NvmlFaultError(self._fault) from error
        self._nvml = pynvml
        return pynvml

    def _read(self, job_of_pid: JobOfPid) -> GpuSnapshot:
        nvml = self._open()
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            self._forget()
            raise NvmlFaultError(f"NVIDIA's driver can't be used: {error}.") from error
        gpus: list[GpuReading] = []
        faults: list[str] = []
        for index in range(max(count, 1 + max(self._cards, default=-1))):
            try:
                card = self._card(index)
            except nvml.NVMLError as error:
                faults.append(f"GPU {index}: {error}.")
                continue
            reading = self._read_card(card, job_of_pid)
            gpus.append(reading)
            if reading["fault"]:
                faults.append(reading["fault"])
        return GpuSnapshot(gpus, " ".join(faults) or None)

    def _card(self, index: int) -> _Card:
        """What is known about a GPU. A card that was seen once stays listed."""
        if index in self._cards:
            return self._cards[index]
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        low, high = self._ask(lambda: nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)) or (None, None)
        default = self._ask(lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
        memory = self._memory(handle)
        card = _Card(
            index=index,
            handle=handle,
            uuid=nvml.nvmlDeviceGetUUID(handle),
            name=nvml.nvmlDeviceGetName(handle),
            memory_total=memory.total if memory else None,
            limit_default=_watts(default),
            limit_min=_watts(low),
            limit_max=_watts(high),
        )
        self._cards[index] = card
        return card

    def _read_card(self, card: _Card, job_of_pid: JobOfPid) -> GpuReading:
        nvml, handle = self._nvml, card.handle
        reading = _empty_reading(card)
        try:
            # The first question tells whether the card is there at all; it must not pass for an absent sensor.
            power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle), lost_too=True)
        except nvml.NVMLError as error:
            return _unread(reading, _lost(card, error))
        memory = self._memory(handle)
        use = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        reading["power_draw_watts"] = _watts(power)
        reading["power_limit_watts"] = _watts(self._ask(lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle)))
        reading["memory_used_bytes"] = memory.used if memory else None
        reading["utilization_gpu_percent"] = use.gpu if use else None
        reading["utilization_memory_percent"] = use.memory if use else None
        reading["temperature_celsius"] = self._temperature(handle)
        reading["fan_speed_percent"] = self._ask(lambda: nvml.nvmlDeviceGetFanSpeed(handle))
        reading["processes"] = self._processes(handle, job_of_pid)
        return reading

    def _ask(self, question: Callable[[], T], *, lost_too: bool = False) -> T | None:
        """The answer, or None for what this card or this driver doesn't have."""
        try:
            return question()
        except self._nvml.NVMLError as error:
            if lost_too and _is(error, "GPU_IS_LOST", "UNKNOWN", "INVALID_ARGUMENT", "NOT_FOUND", "UNINITIALIZED"):
                raise
            return None

    def _memory(self, handle: Any) -> Any:
        """Version 2 keeps what the driver reserves apart from what is used; older drivers lack it."""
        nvml = self._nvml
        newer = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2))
        return newer or self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))

    def _temperature(self, handle: Any) -> int | None:
        nvml = self._nvml
        core = nvml.NVML_TEMPERATURE_GPU
        newer = self._ask(lambda: int(nvml.nvmlDeviceGetTemperatureV(handle, core)))
        return newer if newer is not None else self._ask(lambda: int(nvml.nvmlDeviceGetTemperature(handle, core)))

    def _processes(self, handle: Any, job_of_pid: JobOfPid) -> list[GpuProcess]:
        nvml = self._nvml
        compute = self._ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)) or []
        graphics = self._ask(lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)) or []
        used = {item.pid: item.usedGpuMemory for item in [*graphics, *compute]}
        return [
            GpuProcess(
                pid=pid,
                start_ticks=None,
                boot_id="",
                memory_used_bytes=memory,
                command=_command_of(pid),
                user=None,
                started_at=None,
                job_id=job_of_pid(pid),
                is_ours=False,
            )
            for pid, memory in sorted(used.items())
        ]

    def _versions(self) -> tuple[str | None, str | None]:
        nvml = self._open()
        driver = self._ask(nvml.nvmlSystemGetDriverVersion)
        cuda = self._ask(nvml.nvmlSystemGetCudaDriverVersion)
        return driver, None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"

    def _by_uuid(self, uuid: str) -> _Card:
        nvml = self._open()
        with contextlib.suppress(nvml.NVMLError):
            for index in range(int(nvml.nvmlDeviceGetCount())):
                with contextlib.suppress(nvml.NVMLError):
                    self._card(index)
        for card in self._cards.values():
            if card.uuid == uuid:
                return card
        raise UnknownGpuError(uuid)

    def _power_limits(self, uuid: str) -> PowerLimits:
        card = self._by_uuid(uuid)
        current = self._ask(lambda: self._nvml.nvmlDeviceGetPowerManagementLimit(card.handle))
        return PowerLimits(card.name, _watts(current), card.limit_default, card.limit_min, card.limit_max)

    def _set_power_limit(self, uuid: str, watts: float) -> None:
        card = self._by_uuid(uuid)
        try:
            self._nvml.nvmlDeviceSetPowerManagementLimit(card.handle, round(watts * 1000))
        except self._nvml.NVMLError as error:
            raise NvmlRefusedError(str(error), permission=_is(error, "NO_PERMISSION")) from error

    def _forget(self) -> None:
        """After the driver was unloaded or updated under us: open it anew next time."""
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._nvml = None
        self._cards = {}


class _DeadlineCaller:
    """Runs calls one after the other in a daemon thread and gives each a deadline.

    While a call hangs, further ones fail at once: the library has global locks, so they could only queue up.
    """

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self._late: queue.SimpleQueue[Any] | None = None
        """Where the answer of a call that ran past its deadline will come in one day."""
        threading.Thread(target=self._work, name="nvml", daemon=True).start()

    def call(self, question: Callable[[], T]) -> T:
        answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put((question(), None))
            except Exception as error:
                answers.put((None, error))  # raised again in the caller's thread

        with self._busy:
            if self._late is not None and self._late.empty():
                raise NvmlFaultError(HUNG)
            self._late = None
            self._calls.put(answer)
            try:
                value, error = answers.get(timeout=self._deadline_seconds)
            except queue.Empty:
                self._late = answers
                raise NvmlFaultError(HUNG) from None
        if error is not None:
            raise error
        return value  # type: ignore[return-value] # None only where T allows it

    def close(self) -> None:
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _is(error: Any, *names: str) -> bool:
    import pynvml

    return error.value in {getattr(pynvml, f"NVML_ERROR_{name}") for name in names}


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _lost(card: _Card, error: Exception) -> str:
    return (
        f"GPU {card.index} ({card.name}, {card.uuid}) can't be read: {error}. "
        "Reboot the host; if it comes back lost, check its seat and its power cable."
    )


def _command_of(pid: int) -> str:
    """A process's name alone: the arguments of other people's programs are none of our business."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""


def _empty_reading(card: _Card) -> GpuReading:
    return GpuReading(
        index=card.index,
        uuid=card.uuid,
        name=card.name,
        memory_total_bytes=card.memory_total,
        memory_used_bytes=None,
        utilization_gpu_percent=None,
        utilization_memory_percent=None,
        temperature_celsius=None,
        power_draw_watts=None,
        power_limit_watts=None,
        power_limit_default_watts=card.limit_default,
        power_limit_min_watts=card.limit_min,
        power_limit_max_watts=card.limit_max,
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


def _unread(reading: GpuReading, fault: str) -> GpuReading:
    """The card still listed, with everything that changes unknown."""
    return {
        **reading,
        "memory_used_bytes": None,
        "utilization_gpu_percent": None,
        "utilization_memory_percent": None,
        "temperature_celsius": None,
        "power_draw_watts": None,
        "power_limit_watts": None,
        "fan_speed_percent": None,
        "processes": [],
        "fault": fault,
    }
