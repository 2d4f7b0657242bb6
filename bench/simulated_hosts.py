"""Hosts that aren't there: `python -m bench.simulated_hosts FOLDER HOSTS GPUS` answers for their agents.

Each has a home under FOLDER with an id and a socket, and speaks the agent's protocol: a poll brings a reading a second,
whose figures wander, and a sample a second. Prints one line of JSON, the facts of all hosts, once they listen.
"""

import json
import random
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

from monitoring.home_id import home_id
from monitoring.server import SOCKET_FILE, short_path

GIB = 1 << 30
FULL = {
    "memory_total_bytes": 80 * GIB, "utilization_memory_percent": 40, "power_draw_watts": 410.0,
    "power_limit_watts": 700.0, "power_limit_default_watts": 700.0, "power_limit_min_watts": 200.0,
    "power_limit_max_watts": 700.0, "fan_speed_percent": None, "clock_sm_mhz": 1980, "clock_sm_max_mhz": 1980,
    "clock_memory_mhz": 2619, "clock_memory_max_mhz": 2619, "performance_state": 0, "throttle_reasons": [],
    "pcie_generation": 5, "pcie_generation_max": 5, "pcie_width": 16, "pcie_width_max": 16,
    "pcie_sent_bytes_per_second": 0, "pcie_received_bytes_per_second": 0, "ecc_enabled": True,
    "ecc_corrected_count": 0, "ecc_uncorrected_count": 0, "persistence_mode": True, "processes": [],
    "unsupported": ["fan_speed_percent"], "fault": None,
}  # fmt: skip
SAMPLED = (
    "power_draw_watts", "power_limit_watts", "temperature_celsius", "utilization_gpu_percent",
    "utilization_memory_percent", "memory_used_bytes", "clock_sm_mhz",
)  # fmt: skip


class SimulatedHost:
    """What one agent would answer."""

    def __init__(self, home: Path, name: str, gpus: int) -> None:
        self.home, self.name = home, name
        self._chance = random.Random(name)
        self._levels = [self._chance.uniform(0, 100) for _ in range(gpus)]
        self._lock = threading.Lock()
        self._last: dict[str, Any] = {"time": 0.0}

    def describe(self) -> dict[str, Any]:
        """Its facts."""
        return {
            "name": self.name, "boot_id": "simulated", "agent_pid": 2, "agent_version": "0", "started_at": time.time(),
            "platform": "Linux", "python_version": "3.11", "cpu_name": "a processor", "cpu_count": 192,
            "memory_total_bytes": 2048 * GIB, "driver_version": "570.1", "cuda_driver_version": "12.8",
            "home": str(self.home), "home_id": home_id(self.home),
        }  # fmt: skip

    def poll(self, wait_seconds: float, samples_after: float | None = None, **_more: Any) -> dict[str, Any]:
        """The reading of this second, and its sample; waits, as a host does on which nothing happens."""
        time.sleep(min(wait_seconds, 1.0))
        with self._lock:
            reading = self._reading()
        fresh = reading["time"] > (samples_after or 0.0)
        samples = [{"time": reading["time"], "values": _values(reading)}] if fresh else []
        return {"now": time.time(), "attempts": [], "live": [], "reading": reading, "samples": samples}

    def _reading(self) -> dict[str, Any]:
        now = float(int(time.time()))
        if now == self._last["time"]:
            return self._last
        self._levels = [min(100.0, max(0.0, level + self._chance.uniform(-6, 6))) for level in self._levels]
        self._last = {
            "time": now, "cpu_percent": self._chance.uniform(5, 60), "cpu_count": 192, "load_1m": 20.0,
            "memory_used_bytes": 300 * GIB, "memory_total_bytes": 2048 * GIB, "swap_used_bytes": 0,
            "swap_total_bytes": 0, "disks": [{"mount": "/", "used_bytes": 100 * GIB, "total_bytes": 900 * GIB}],
            "networks": [{"name": "eth0", "received_bytes_per_second": 1e6, "sent_bytes_per_second": 1e6}],
            "temperatures": [], "clock_synchronized": True, "gpu_fault": None, "gpu_fault_since": None,
            "gpus": [self._gpu(index, level) for index, level in enumerate(self._levels)],
        }  # fmt: skip
        return self._last

    def _gpu(self, index: int, level: float) -> dict[str, Any]:
        return {
            **FULL, "index": index, "uuid": f"GPU-{self.name}-{index}", "name": "NVIDIA H100 80GB HBM3",
            "memory_used_bytes": int(0.75 * level / 100 * 80 * GIB), "utilization_gpu_percent": round(level),
            "temperature_celsius": round(32 + 0.5 * level),
        }  # fmt: skip


def _values(reading: dict[str, Any]) -> dict[str, float]:
    values = {name: float(reading[name]) for name in ("cpu_percent", "load_1m", "memory_used_bytes")}
    for gpu in reading["gpus"]:
        values |= {f"{gpu['uuid']}/{name}": float(gpu[name]) for name in SAMPLED}
    return values


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    host: SimulatedHost


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        for line in self.rfile:
            asked = json.loads(line)
            try:
                answer = {"result": getattr(self.server.host, asked["call"])(**asked.get("args", {}))}
            except AttributeError:
                answer = {"fault": {"code": "bad_call", "message": "It only simulates.", "fix": ""}}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


def main(folder: Path, hosts: int, gpus: int) -> None:
    """Answers until it is killed."""
    facts = []
    for number in range(1, hosts + 1):
        home = folder / f"h{number}"
        home.mkdir(parents=True)
        with short_path(home / SOCKET_FILE) as path:
            server = _Server(str(path), _Connection)
        server.host = SimulatedHost(home, f"node-{number:02d}", gpus)
        facts.append(server.host.describe())
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps(facts), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
