"""Reading a real card, where there is one: what the gate tells against what nvidia-smi does. Changes nothing.

In a process of its own: this one may have the stand-in for NVML loaded.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.monitoring.factories import CHECKOUT

NVIDIA_SMI = shutil.which("nvidia-smi")
PROGRAM = """
import json, os, time
from pathlib import Path
from monitoring.gpu_processes import ProcessWatch
from monitoring.nvml import NvmlGate
gate, watch = NvmlGate(deadline_seconds=30), ProcessWatch(Path("/none"), dict)
gate.read(watch.describer())
used, began = time.process_time(), time.monotonic()
for _ in range(10):
    snapshot = gate.read(watch.describer())
    time.sleep(0.1)
milliseconds = (time.process_time() - used) * 100
print(json.dumps({"gpus": snapshot.gpus, "fault": snapshot.fault, "versions": gate.versions(), "cost": milliseconds}))
"""


def nvidia_smi(*fields: str) -> list[dict[str, str]]:
    """One row a card; [N/A] and its likes as they come."""
    command = [str(NVIDIA_SMI), f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [dict(zip(fields, line.split(", "), strict=True)) for line in done.stdout.splitlines()]


def has_card() -> bool:
    """Whether there is an NVIDIA driver with a card."""
    if NVIDIA_SMI is None:
        return False
    return subprocess.run([NVIDIA_SMI, "-L"], capture_output=True, timeout=60, check=False).returncode == 0


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_card(), reason="no NVIDIA GPU here")]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the gate reads, by the driver's own library."""
    environment = {name: value for name, value in os.environ.items() if name != "FAKE_NVML"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_card_is_named_as_nvidia_smi_names_it(told: dict[str, Any]) -> None:
    rows = nvidia_smi("index", "uuid", "name", "driver_version")
    assert told["fault"] is None
    assert [(str(gpu["index"]), gpu["uuid"], gpu["name"]) for gpu in told["gpus"]] == [
        (row["index"], row["uuid"], row["name"]) for row in rows
    ]
    assert told["versions"][0] == rows[0]["driver_version"]


@pytest.mark.parametrize(
    ("field", "smi_field", "tolerance"),
    [
        ("memory_total_bytes", "memory.total", 2 << 20),
        ("power_limit_watts", "power.limit", 0.01),
        ("power_limit_default_watts", "power.default_limit", 0.01),
        ("power_limit_min_watts", "power.min_limit", 0.01),
        ("power_limit_max_watts", "power.max_limit", 0.01),
        ("temperature_celsius", "temperature.gpu", 10),
        ("clock_sm_max_mhz", "clocks.max.sm", 0),
        ("clock_memory_max_mhz", "clocks.max.mem", 0),
        ("pcie_generation_max", "pcie.link.gen.max", 1),
        ("pcie_width_max", "pcie.link.width.max", 0),
        ("pcie_width", "pcie.link.width.current", 0),
    ],
)
def test_figures_agree_with_nvidia_smi(told: dict[str, Any], field: str, smi_field: str, tolerance: float) -> None:
    for gpu, row in zip(told["gpus"], nvidia_smi(smi_field), strict=True):
        text = row[smi_field]
        if not text.replace(".", "").isdigit():
            assert gpu[field] is None
        else:
            scale = 1 << 20 if field.endswith("_bytes") else 1
            assert gpu[field] is not None
            assert abs(gpu[field] - float(text) * scale) <= tolerance


def test_a_figure_is_known_or_named_as_unsupported(told: dict[str, Any]) -> None:
    for gpu in told["gpus"]:
        for field, value in gpu.items():
            if value is None and field not in ("fault", "performance_state"):
                assert field in gpu["unsupported"], field
        assert gpu["power_draw_watts"] is None or 1 < gpu["power_draw_watts"] < 2000
        assert gpu["persistence_mode"] in (True, False)


def test_a_reading_costs_less_than_five_milliseconds_of_processor_time(told: dict[str, Any]) -> None:
    assert told["cost"] < 5 * max(len(told["gpus"]) / 8, 1)
