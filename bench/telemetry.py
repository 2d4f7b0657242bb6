"""What watching costs: `python -m bench.telemetry [--gpus 8] [--seconds 30] [--readings 200]`.

Printed: processor time of the agent per reading of 8 GPUs (the stand-in for NVML under `tests/fakes`, whose own time
is counted in: it looks up every value in a text), what an hour of samples holds, and, of a whole product at rest with
those GPUs, the agent's share of a core and its memory, and the web process's memory. Goals: 5 ms, 1 % of a core and
60 MB, 250 MB.
"""

import argparse
import ctypes
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import psutil

from bench.machine import described
from monitoring.gpu_processes import ProcessWatch
from monitoring.nvml import NvmlGate
from monitoring.samples import KEEP_SAMPLES, SampleStore
from monitoring.system import HostMonitor
from tests.fakes.gpus import FakeGpus, build_nvml
from tests.product import Product, wait_for
from tests.tiny import build_tiny_model

GOAL_MILLISECONDS = 5.0
GOAL_PERCENT = 1.0
GOAL_AGENT_MB = 60.0
GOAL_WEB_MB = 250.0
PAUSE_SECONDS = 0.06
"""Between two readings: after each, one card's PCIe throughput is measured for 40 ms in the background."""

SETTLE_SECONDS = 5.0


def verdict(value: float, goal: float) -> str:
    """Whether a goal is met."""
    return "met" if value < goal else "MISSED"


def megabytes(process: psutil.Process) -> float:
    """Resident memory."""
    return float(process.memory_info().rss) / 1e6


def measure_readings(folder: Path, gpus: FakeGpus, readings: int) -> None:
    """Processor time of this process, all threads, per reading; NVML alone and the whole host."""
    os.environ["FAKE_NVML"] = str(gpus.path)
    ctypes.CDLL(str(folder / "libnvidia-ml.so.1"))  # pynvml's own look-up by name finds what is loaded already
    gate, watch = NvmlGate(), ProcessWatch(folder, dict)
    monitor = HostMonitor(folder, gate, watch.describer)
    for what, read in (
        ("NVML alone", lambda: gate.read(watch.describer())),
        ("the whole host", monitor.take),
    ):
        read()
        spent = []
        for _ in range(readings):
            time.sleep(PAUSE_SECONDS)
            before = time.process_time()
            read()
            spent.append((time.process_time() - before) * 1000)
        middle = statistics.median(spent)
        tail = statistics.quantiles(spent, n=20)[-1]
        print(
            f"reading, {what}: median {middle:.2f} ms of processor time, 95th percentile {tail:.2f} ms "
            f"(goal {GOAL_MILLISECONDS:g} ms: {verdict(middle, GOAL_MILLISECONDS)})"
        )
    print(f"of that, the stand-in: {stand_in_microseconds():.1f} µs a call, about 16 calls a GPU")
    reading = monitor.take()
    tracemalloc.start()
    store = SampleStore()
    for second in range(KEEP_SAMPLES):
        store.add(float(second), reading)
    print(f"an hour of samples: {tracemalloc.get_traced_memory()[0] / 1e6:.1f} MB")
    tracemalloc.stop()
    monitor.close()
    gate.close()


def stand_in_microseconds(calls: int = 2000) -> float:
    """Processor time of one call of the stand-in, without Python's part."""
    library, handle, answer = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p(), ctypes.c_uint()
    library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
    ask, where = library.nvmlDeviceGetPowerUsage, ctypes.byref(answer)
    before = time.process_time()
    for _ in range(calls):
        ask(handle, where)
    return (time.process_time() - before) / calls * 1e6


def measure_product(folder: Path, gpus: FakeGpus, seconds: float) -> None:
    """The product at rest: its agent samples and is polled, nobody looks at a page."""
    product = Product(folder, build_tiny_model(folder / "tiny"))
    product.environment |= {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(gpus.path)}
    with product:
        with product.client("read") as client:
            wait_for("the GPUs", lambda: client.get("/api/gpu").json()["gpus"])
        agent, web = psutil.Process(product.agent_pid), psutil.Process(product.web_pid)
        time.sleep(SETTLE_SECONDS)
        before, began = (sum(process.cpu_times()[:2]) for process in (agent, web)), time.monotonic()
        agent_before, web_before = before
        time.sleep(seconds)
        elapsed = time.monotonic() - began
        agent_percent = (sum(agent.cpu_times()[:2]) - agent_before) / elapsed * 100
        web_percent = (sum(web.cpu_times()[:2]) - web_before) / elapsed * 100
        agent_mb, web_mb = megabytes(agent), megabytes(web)
    print(f"agent at rest, {seconds:g} s: {agent_percent:.2f} % of a core (goal {GOAL_PERCENT:g} %: "
          f"{verdict(agent_percent, GOAL_PERCENT)}), {agent_mb:.0f} MB (goal {GOAL_AGENT_MB:g} MB: "
          f"{verdict(agent_mb, GOAL_AGENT_MB)})")  # fmt: skip
    print(f"web process at rest: {web_percent:.1f} % of a core, {web_mb:.0f} MB (goal {GOAL_WEB_MB:g} MB: "
          f"{verdict(web_mb, GOAL_WEB_MB)})")  # fmt: skip


def main() -> int:
    """Prints the machine and the figures; 0 whatever they are."""
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry", description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--readings", type=int, default=200)
    options = parser.parse_args()
    print(described())
    with tempfile.TemporaryDirectory(prefix="pilothouse-bench-") as name:
        folder = Path(name)
        build_nvml(folder)
        gpus = FakeGpus(folder / "nvml.txt")
        gpus.set(count=options.gpus)
        for index in range(options.gpus):
            gpus.set_processes(index, {os.getpid(): 1 << 30})
            gpus.set_process_use(index, (os.getpid(), 80, 300))
        measure_readings(folder, gpus, options.readings)
        measure_product(folder, gpus, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
