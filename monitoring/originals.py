"""What a GPU's power limit and persistence mode were before the agent first changed them, and putting that back.

Runs in the agent. The file `gpu-originals.json` in the home outlives it: an agent that was killed is followed by one
that still knows. It speaks for one boot of the machine: the driver forgets all of this at the next.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from monitoring.files import write_json
from monitoring.nvml import NvmlFaultError, NvmlGate, UnknownGpuError
from monitoring.power import TOLERANCE_WATTS, set_persistence, set_power
from monitoring.processes import boot_id
from monitoring.wire import AgentFaultError

log = logging.getLogger(__name__)

FILE = "gpu-originals.json"
RESTORE_SECONDS = 15.0
"""How long putting back may hold up the agent's end; what is left over then is left to the next agent."""

Setting = Literal["power_limit_watts", "persistence_mode"]


class Originals:
    """The original settings of one home's GPUs. Thread-safe."""

    def __init__(self, home: Path, gate: NvmlGate) -> None:
        self._path = home / FILE
        self._gate = gate
        self._lock = threading.Lock()
        self._cards: dict[str, dict[str, Any]] = _read(self._path)

    def remember(self, uuid: str, setting: Setting, *, restore: bool) -> None:
        """Call it before a change. The first value counts, the last wish to have it back at the agent's end too."""
        with self._lock:
            card = self._cards.setdefault(uuid, {})
            known = card.get(setting)
            try:
                value = known["value"] if known else self._now(uuid, setting)
            except (NvmlFaultError, UnknownGpuError):
                return  # nothing will be changed either
            if value is None or known == {"value": value, "restore": restore}:
                return
            card[setting] = {"value": value, "restore": restore}
            self._write()

    def restore(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Puts back what is to be put back at the agent's end. Logs what can't be."""
        deadline = clock() + RESTORE_SECONDS
        with self._lock:
            for uuid, card in self._cards.items():
                for setting in [name for name, original in card.items() if original["restore"]]:
                    if clock() > deadline:
                        log.warning("%s of %s isn't put back: no time is left", setting, uuid)
                    elif self._put_back(uuid, setting, card[setting]["value"]):
                        del card[setting]
            self._write()

    def _now(self, uuid: str, setting: str) -> float | bool | None:
        if setting == "power_limit_watts":
            return self._gate.power_limits(uuid).current
        return self._gate.persistence_mode(uuid)

    def _put_back(self, uuid: str, setting: str, value: Any) -> bool:
        """Whether the card has it again."""
        try:
            if self._is(self._now(uuid, setting), value):
                return True
            if setting == "power_limit_watts":
                reason = set_power(self._gate, uuid, value, strict=False)["reason"]
            else:
                reason = set_persistence(self._gate, uuid, value)["reason"]
        except (NvmlFaultError, UnknownGpuError, AgentFaultError) as error:
            reason = str(error)
        if reason is None:
            log.info("%s of %s put back to %s", setting, uuid, value)
        else:
            log.warning("%s of %s can't be put back to %s: %s", setting, uuid, value, reason)
        return reason is None

    @staticmethod
    def _is(now: float | bool | None, value: float | bool) -> bool:
        return now is not None and abs(now - value) <= (0 if isinstance(value, bool) else TOLERANCE_WATTS)

    def _write(self) -> None:
        cards = {uuid: card for uuid, card in self._cards.items() if card}
        try:
            if cards:
                write_json(self._path, {"boot_id": boot_id(), "cards": cards})
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be written: %s. An agent that is killed won't put GPUs back.", self._path, error)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        kept = json.loads(path.read_bytes())
        of_boot, cards = kept["boot_id"], dict[str, dict[str, Any]](kept["cards"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("%s can't be read (%s); the limits that are in force now count as the original ones", path, error)
        return {}
    return cards if of_boot == boot_id() else {}
