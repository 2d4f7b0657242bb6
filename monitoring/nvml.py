"""The one gate to NVIDIA's management library: reads GPUs, changes what may be changed, and never blocks for long.

Runs in the agent; nothing else imports pynvml (`monitoring.cards`, which knows what to ask of a card, is handed the
module). Every call happens in one thread of its own with a deadline: a hung driver costs one deadline, once, and is
told as a fault until it answers again. A driver that was reset, and a card that is lost, are asked anew from the
beginning after a while. Terms, enums and units are NVML's (https://docs.nvidia.com/deploy/nvml-api/), turned into plain
bytes, watts and percent.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from monitoring import cards
from monitoring.cards import Card, DescribeProcess, Facts, is_one_of, watts
from monitoring.deadline import DeadlineCaller, LateError
from monitoring.wire import GpuReading

T = TypeVar("T")

DEADLINE_SECONDS = 3.0
RETRY_SECONDS = 30.0
"""How soon a driver that could not be opened, or that lost a card, is opened anew; twice as late each further time."""

LONGEST_RETRY_SECONDS = 600.0

NO_LIBRARY = "No NVIDIA driver on this host (libnvidia-ml.so.1 not found)."
HUNG = "The NVIDIA driver doesn't answer. Running jobs are left alone; a reboot usually brings it back."
VANISHED = "the driver doesn't list it any more"


class NvmlFaultError(Exception):
    """Why NVML can't be asked, as a sentence."""


class GpuLostError(NvmlFaultError):
    """The card was there and is no longer."""


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
    """All GPUs of the host, why some or all can't be read, and since when (Unix seconds) the driver doesn't answer."""

    gpus: list[GpuReading]
    fault: str | None
    fault_since: float | None = None


class NvmlGate:
    """NVML in a thread of its own. Thread-safe. `close()` lets the thread end."""

    def __init__(self, deadline_seconds: float = DEADLINE_SECONDS, retry_seconds: float = RETRY_SECONDS) -> None:
        self._caller = DeadlineCaller("nvml", deadline_seconds)
        self._retry_seconds = retry_seconds
        self._fault_since: float | None = None
        self._last: list[GpuReading] = []
        # From here on the thread's own.
        self._nvml: Any = None
        self._retry_after = retry_seconds
        self._closed_until = 0.0
        self._reopen_at: float | None = None
        self._fault = NO_LIBRARY
        self._cards: dict[str, Card] = {}
        """Every card that was ever seen, by UUID: it stays listed, by the index that it had at first."""
        self._present: dict[int, Card] = {}
        """The cards that the driver lists, by its index."""
        self._rare: dict[str, Facts] = {}
        self._pcie: dict[str, Facts] = {}
        self._turn = 0

    def read(self, describe: DescribeProcess) -> GpuSnapshot:
        """One reading of every GPU. Never raises: what can't be read is None, and the fault says why."""
        try:
            snapshot = self._call(lambda: self._read(describe))
        except NvmlFaultError as fault:
            return GpuSnapshot([_unread(gpu, str(fault)) for gpu in self._last], str(fault), self._fault_since)
        self._last = snapshot.gpus
        return snapshot

    def versions(self) -> tuple[str | None, str | None]:
        """The driver's version and the newest CUDA version that it supports ("12.4"), or None each."""
        try:
            return self._call(self._versions)
        except NvmlFaultError:
            return None, None

    def power_limits(self, uuid: str) -> PowerLimits:
        """The limits of one card. Raises UnknownGpuError, GpuLostError or NvmlFaultError."""
        return self._call(lambda: self._power_limits(uuid))

    def set_power_limit(self, uuid: str, limit_watts: float) -> None:
        """Asks NVML for a limit. Raises NvmlRefusedError, UnknownGpuError, GpuLostError or NvmlFaultError."""
        milliwatts = round(limit_watts * 1000)
        self._call(lambda: self._change(uuid, "nvmlDeviceSetPowerManagementLimit", milliwatts))

    def persistence_mode(self, uuid: str) -> bool | None:
        """Whether a card's driver stays loaded without clients; None where it doesn't tell. Raises as above."""
        return self._call(lambda: self._persistence_mode(uuid))

    def set_persistence_mode(self, uuid: str, enabled: bool) -> None:
        """Asks NVML for a persistence mode. Raises as `set_power_limit` does."""
        self._call(lambda: self._change(uuid, "nvmlDeviceSetPersistenceMode", int(enabled)))

    def close(self, wait_seconds: float = 0.0) -> None:
        """Ends the thread, and waits a while for it; the gate can't be used afterwards."""
        self._caller.close(wait_seconds)

    def _call(self, question: Callable[[], T]) -> T:
        """Asks in the gate's thread, and keeps account of since when the driver hasn't answered."""
        began = time.time()
        try:
            answer = self._caller.call(question)
        except LateError:
            self._fault_since = self._fault_since or began
            raise NvmlFaultError(HUNG) from None
        except GpuLostError:
            raise
        except NvmlFaultError as fault:
            # A host without a driver has none that could have stopped answering.
            self._fault_since = None if str(fault) == NO_LIBRARY else self._fault_since or began
            raise
        self._fault_since = None
        return answer

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
            absent = is_one_of(pynvml, error, "LIBRARY_NOT_FOUND")
            self._fault = NO_LIBRARY if absent else f"NVIDIA's driver can't be used: {error}."
            self._closed_until = time.monotonic() + self._retry_seconds
            raise NvmlFaultError(self._fault) from error
        self._nvml = pynvml
        return pynvml

    def _forget(self) -> None:
        """After the driver was unloaded, updated or reset under us: open it anew next time."""
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._nvml = self._reopen_at = None
        self._present = {}
        self._rare.clear()
        self._pcie.clear()

    def _read(self, describe: DescribeProcess) -> GpuSnapshot:
        if self._reopen_at is not None and time.monotonic() >= self._reopen_at:
            self._forget()
            self._retry_after = min(2 * self._retry_after, LONGEST_RETRY_SECONDS)
        faults = self._find_cards()
        turn = sorted(self._present)[self._turn % len(self._present)] if self._present else None
        self._turn += 1
        gpus = []
        for card in sorted(self._cards.values(), key=lambda card: card.fixed["index"]):
            is_its_turn = turn is not None and self._present[turn] is card
            reading = self._read_card(card, describe, is_its_turn=is_its_turn)
            gpus.append(reading)
            if reading["fault"]:
                faults.append(reading["fault"])
        self._note_lost(bool(faults))
        if turn is not None:
            self._caller.post(lambda: self._measure_pcie(turn))
        return GpuSnapshot(gpus, " ".join(faults) or None)

    def _find_cards(self) -> list[str]:
        """Looks for cards that aren't known yet. Returns what is wrong with those that can't be had."""
        nvml = self._open()
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            self._forget()
            raise NvmlFaultError(f"NVIDIA's driver can't be used: {error}.") from error
        for index in [index for index in self._present if index >= count]:
            del self._present[index]
        faults = []
        for index in range(count):
            if index in self._present:
                continue
            try:
                self._present[index] = self._find_card(index)
            except nvml.NVMLError as error:
                if all(card.fixed["index"] != index for card in self._cards.values()):  # else it is told as lost
                    faults.append(f"GPU {index}: {error}.")
        return faults

    def _find_card(self, index: int) -> Card:
        nvml = self._nvml
        card = cards.find_card(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index)
        if known := self._cards.get(card.uuid):
            card.fixed["index"] = known.fixed["index"]
        else:
            taken = {other.fixed["index"] for other in self._cards.values()}
            card.fixed["index"] = next(number for number in (index, *range(len(taken) + 1)) if number not in taken)
        self._cards[card.uuid] = card
        return card

    def _read_card(self, card: Card, describe: DescribeProcess, *, is_its_turn: bool) -> GpuReading:
        if card not in self._present.values():
            return _unread(card.fixed, card.lost(VANISHED))
        try:
            reading = cards.read_often(self._nvml, card, describe)
            if is_its_turn or card.uuid not in self._rare:
                self._rare[card.uuid] = cards.read_rarely(self._nvml, card)
        except self._nvml.NVMLError as error:
            return _unread(card.fixed, card.lost(error))
        self._rare[card.uuid].fill_in(reading)
        if card.uuid in self._pcie:
            self._pcie[card.uuid].fill_in(reading)
        return reading

    def _note_lost(self, is_any_lost: bool) -> None:
        """A lost card may come back with a driver that is opened anew; each try costs the other cards a moment."""
        if not is_any_lost:
            self._reopen_at, self._retry_after = None, self._retry_seconds
        elif self._reopen_at is None:
            self._reopen_at = time.monotonic() + self._retry_after

    def _measure_pcie(self, index: int) -> None:
        card = self._present.get(index)
        if card is not None and self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):  # a lost card is told by the next reading
                self._pcie[card.uuid] = cards.measure_pcie(self._nvml, card)

    def _versions(self) -> tuple[str | None, str | None]:
        nvml = self._open()
        driver = cuda = None
        with contextlib.suppress(nvml.NVMLError):
            driver = str(nvml.nvmlSystemGetDriverVersion())
        with contextlib.suppress(nvml.NVMLError):
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
        return driver, None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"

    def _by_uuid(self, uuid: str) -> Card:
        self._find_cards()
        if uuid not in self._cards:
            raise UnknownGpuError(uuid)
        card = self._cards[uuid]
        if card not in self._present.values():
            raise GpuLostError(card.lost(VANISHED))
        return card

    def _ask(self, card: Card, question: Callable[[], T]) -> T | None:
        """The answer of one card, or None. Raises GpuLostError."""
        try:
            return cards.Questions(self._nvml, []).ask("", question)
        except self._nvml.NVMLError as error:
            raise GpuLostError(card.lost(error)) from error

    def _power_limits(self, uuid: str) -> PowerLimits:
        card = self._by_uuid(uuid)
        current = self._ask(card, lambda: self._nvml.nvmlDeviceGetPowerManagementLimit(card.handle))
        fixed = card.fixed
        return PowerLimits(
            name=card.name,
            current=watts(current),
            default=fixed["power_limit_default_watts"],
            minimum=fixed["power_limit_min_watts"],
            maximum=fixed["power_limit_max_watts"],
        )

    def _persistence_mode(self, uuid: str) -> bool | None:
        card = self._by_uuid(uuid)
        return self._ask(card, lambda: bool(self._nvml.nvmlDeviceGetPersistenceMode(card.handle)))

    def _change(self, uuid: str, call: str, value: int) -> None:
        card, nvml = self._by_uuid(uuid), self._nvml
        self._rare.pop(uuid, None)  # the next reading tells what has come of it
        try:
            getattr(nvml, call)(card.handle, value)
        except nvml.NVMLError as error:
            if is_one_of(nvml, error, *cards.LOST):
                raise GpuLostError(card.lost(error)) from error
            if is_one_of(nvml, error, "FUNCTION_NOT_FOUND"):
                raise NvmlRefusedError(f"this version of the driver has no call {call}") from error
            raise NvmlRefusedError(str(error), permission=is_one_of(nvml, error, "NO_PERMISSION")) from error


def _unread(reading: GpuReading, fault: str) -> GpuReading:
    """The card still listed, with everything that changes unknown."""
    unknown = cards.empty_reading(reading["index"], reading["uuid"], reading["name"])
    return {
        **unknown,
        "memory_total_bytes": reading["memory_total_bytes"],
        "power_limit_default_watts": reading["power_limit_default_watts"],
        "power_limit_min_watts": reading["power_limit_min_watts"],
        "power_limit_max_watts": reading["power_limit_max_watts"],
        "clock_sm_max_mhz": reading["clock_sm_max_mhz"],
        "clock_memory_max_mhz": reading["clock_memory_max_mhz"],
        "pcie_generation_max": reading["pcie_generation_max"],
        "pcie_width_max": reading["pcie_width_max"],
        "unsupported": reading["unsupported"],
        "fault": fault,
    }
