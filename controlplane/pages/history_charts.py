"""Which charts a host's page has, and which figures each shows. Runs in the web process; history.js draws them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.models import Gpu, Host

GIB = 1 << 30
MB = 1_000_000


@dataclass(frozen=True)
class Series:
    """One line of a chart. `name` as `services.telemetry` has it; `is_limit`: a dashed line that others stay below."""

    name: str
    label: str
    is_limit: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart. Figures are divided by `scale` to be in `unit`; `top`: where the axis ends, if always there."""

    title: str
    unit: str
    series: Sequence[Series]
    scale: float = 1
    top: float | None = None

    @property
    def series_json(self) -> str:
        """The series as history.js reads them."""
        return json.dumps([[one.name, one.label, one.is_limit] for one in self.series])


def charts(host: Host, gpus: Sequence[Gpu]) -> list[Chart]:
    """The GPUs' charts where there are GPUs, then the host's."""
    return [*(_gpu_charts(gpus) if gpus else []), *_host_charts(host)]


def _gpu_charts(gpus: Sequence[Gpu]) -> list[Chart]:
    def lines(name: str) -> list[Series]:
        return [Series(f"{gpu.uuid}/{name}", f"GPU {gpu.index}") for gpu in gpus]

    limits = [Series(f"{gpu.uuid}/power_limit_watts", f"limit of GPU {gpu.index}", is_limit=True) for gpu in gpus]
    return [
        Chart("Power draw", "W", [*lines("power_draw_watts"), *limits]),
        Chart("Temperature", "°C", lines("temperature_celsius")),
        Chart("GPU busy", "%", lines("utilization_gpu_percent"), top=100),
        Chart("GPU memory", "GiB", lines("memory_used_bytes"), GIB),
        Chart("SM clock", "MHz", lines("clock_sm_mhz")),
        Chart("Fan", "%", lines("fan_speed_percent"), top=100),
    ]


def _host_charts(host: Host) -> list[Chart]:
    network = [
        Series("network_received_bytes_per_second", "received"), Series("network_sent_bytes_per_second", "sent"),
    ]  # fmt: skip
    total = host.reading.get("memory_total_bytes")
    return [
        Chart("Processor", "%", [Series("cpu_percent", "processor")], top=100),
        Chart("Memory", "GiB", [Series("memory_used_bytes", "memory")], GIB, round(total / GIB, 1) if total else None),
        Chart("Network", "MB/s", network, MB),
        Chart("Load", "", [Series("load_1m", "load over a minute")]),
    ]
