"""What the calls about health and facts answer. Names are those of the API that this product replaces."""

from typing import Any

from ninja import Field, Schema


class GpuSummary(Schema):
    """All GPUs as one; memory in GiB, None where it isn't known."""

    available: bool
    device_count: int
    device_name: str | None
    memory_allocated_gb: float | None
    memory_reserved_gb: float | None


class HostCounts(Schema):
    """How many hosts answer, of how many."""

    online: int
    total: int


class Health(Schema):
    """`ok` or `degraded`. Without a key only `status` is told."""

    status: str
    gpu: GpuSummary
    active_model: str | None
    worker_busy: bool
    hosts: HostCounts
    dispatching: bool = Field(description="Whether a process dispatches jobs now")


class Liveness(Schema):
    """What somebody without a key is told."""

    status: str


class Info(Schema):
    """What a client may know of the server."""

    name: str
    version: str | None
    base_paths: dict[str, Any]
    limits: dict[str, int | None]
    features: dict[str, bool]


class Versions(Schema):
    """Versions of the product and of what it runs on."""

    version: str | None
    api_version: str
    python_version: str
    torch_version: str | None
    transformers_version: str | None
    cuda_available: bool
    cuda_version: str | None


class GpuFigures(Schema):
    """One GPU: memory in MiB, power in watts, temperature in °C, the rest in percent. None: not known."""

    host: str | None
    index: int | None
    uuid: str | None
    name: str | None
    driver_version: str | None
    memory_total_mb: int | None
    memory_used_mb: int | None
    utilization_gpu: int | None
    utilization_mem: int | None
    temperature_gpu: int | None
    power_draw_w: float | None
    power_limit_w: float | None
    fan_speed_pct: int | None
    fault: str | None


class GpuAnswer(GpuFigures):
    """The first GPU's figures, and each one's under `gpus`."""

    gpus: list[GpuFigures]


class Disk(Schema):
    """One file system, in GiB."""

    mount: str
    used_gb: float
    total_gb: float
    percent: float | None


class System(Schema):
    """One host: `cpu_load` is the one-minute load average; memory in GiB."""

    host: str
    online: bool
    cpu_load: float
    cpu_percent: float
    cpu_count: int
    ram_used_gb: float
    ram_total_gb: float
    ram_percent: float | None
    disk: list[Disk]


class LogLines(Schema):
    """The last lines of a component's log, oldest first."""

    component: str
    lines: list[str]
