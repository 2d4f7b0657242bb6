"""Hosts and GPUs as Prometheus's metrics, from what their agents reported last. Runs in the web process.

Of a host that is away only that is told, and when it was seen last: its old figures would pass for present ones.
"""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import Metric

from controlplane.models import Gpu, Host
from controlplane.services.exposition.families import Labelled, counter, gauge, info

HOST = ("host",)
GPU = ("host", "gpu", "uuid", "name")
PERCENT = 0.01
MEGAHERTZ = 1e6

HOST_FIGURES: dict[str, tuple[str, str, float]] = {
    "cpu_percent": ("host_cpu_usage_ratio", "Share of the processor that is busy, 0 to 1.", PERCENT),
    "cpu_count": ("host_cpus", "Logical processors.", 1),
    "load_1m": ("host_load1", "Load average of one minute.", 1),
    "memory_used_bytes": ("host_memory_used_bytes", "Memory that programs hold.", 1),
    "memory_total_bytes": ("host_memory_size_bytes", "Memory of the host.", 1),
    "swap_used_bytes": ("host_swap_used_bytes", "Swap space in use.", 1),
    "swap_total_bytes": ("host_swap_size_bytes", "Swap space of the host.", 1),
    "clock_synchronized": ("host_clock_synchronized", "Whether a time source disciplines the clock: 1 or 0.", 1),
    "gpu_fault_since": ("host_gpu_driver_silent_since_timestamp_seconds",
                        "Since when the GPU driver doesn't answer; absent while it does.", 1),
}  # fmt: skip
"""Fields of `HostReading` that are one figure a host."""

HOST_LISTS: dict[str, tuple[str, str, dict[str, tuple[str, str]]]] = {
    "disks": ("mount", "mount", {
        "used_bytes": ("host_disk_used_bytes", "Space in use on a file system."),
        "total_bytes": ("host_disk_size_bytes", "Size of a file system."),
    }),
    "networks": ("device", "name", {
        "received_bytes_per_second": ("host_network_receive_bytes_per_second", "What an interface receives."),
        "sent_bytes_per_second": ("host_network_transmit_bytes_per_second", "What an interface sends."),
    }),
    "temperatures": ("sensor", "label", {
        "celsius": ("host_temperature_celsius", "A sensor of the host's own."),
    }),
}  # fmt: skip
"""Fields of `HostReading` that are lists: the label's name, the field that fills it, and the figures of an entry."""

GPU_FIGURES: dict[str, tuple[str, str, float]] = {
    "memory_total_bytes": ("gpu_memory_size_bytes", "Memory of the card.", 1),
    "memory_used_bytes": ("gpu_memory_used_bytes", "Memory that is held.", 1),
    "utilization_gpu_percent": ("gpu_utilization_ratio", "Share of time in which a kernel ran, 0 to 1.", PERCENT),
    "utilization_memory_percent": ("gpu_memory_utilization_ratio",
                                   "Share of time in which memory was read or written, 0 to 1.", PERCENT),
    "temperature_celsius": ("gpu_temperature_celsius", "Temperature of the core.", 1),
    "power_draw_watts": ("gpu_power_draw_watts", "Power that the card draws.", 1),
    "power_limit_watts": ("gpu_power_limit_watts", "Power limit in force.", 1),
    "power_limit_default_watts": ("gpu_power_limit_default_watts", "Power limit of the card's maker.", 1),
    "power_limit_min_watts": ("gpu_power_limit_min_watts", "Lowest power limit that the card takes.", 1),
    "power_limit_max_watts": ("gpu_power_limit_max_watts", "Highest power limit that the card takes.", 1),
    "fan_speed_percent": ("gpu_fan_speed_ratio", "Fan speed as a share of its highest.", PERCENT),
    "clock_sm_mhz": ("gpu_clock_sm_hertz", "Clock of the multiprocessors.", MEGAHERTZ),
    "clock_sm_max_mhz": ("gpu_clock_sm_max_hertz", "Highest clock of the multiprocessors.", MEGAHERTZ),
    "clock_memory_mhz": ("gpu_clock_memory_hertz", "Clock of the memory.", MEGAHERTZ),
    "clock_memory_max_mhz": ("gpu_clock_memory_max_hertz", "Highest clock of the memory.", MEGAHERTZ),
    "performance_state": ("gpu_performance_state", "P-state, 0 is the fastest.", 1),
    "pcie_generation": ("gpu_pcie_generation", "Generation of the PCIe link now.", 1),
    "pcie_generation_max": ("gpu_pcie_generation_max", "Highest generation that card and slot have in common.", 1),
    "pcie_width": ("gpu_pcie_lanes", "Lanes of the PCIe link now.", 1),
    "pcie_width_max": ("gpu_pcie_lanes_max", "Most lanes that card and slot have in common.", 1),
    "pcie_sent_bytes_per_second": ("gpu_pcie_transmit_bytes_per_second", "What the card sends over PCIe.", 1),
    "pcie_received_bytes_per_second": ("gpu_pcie_receive_bytes_per_second", "What the card receives over PCIe.", 1),
    "ecc_enabled": ("gpu_ecc_enabled", "Whether memory errors are corrected: 1 or 0.", 1),
    "persistence_mode": ("gpu_persistence_mode", "Whether the driver stays loaded without a client: 1 or 0.", 1),
}  # fmt: skip
"""Fields of `GpuReading` that are one figure a card; a test sees to it that none is missing."""

GPU_ELSEWHERE = frozenset(
    {"index", "uuid", "name", "ecc_corrected_count", "ecc_uncorrected_count", "throttle_reasons", "processes",
     "unsupported", "fault"}
)  # fmt: skip
"""Fields of `GpuReading` that are labels, or told in another form below."""


def host_families() -> Iterator[Metric]:
    """Every host, then the figures of those that are there."""
    hosts = list(Host.objects.order_by("name"))
    present = [host for host in hosts if is_up(host)]
    yield gauge("host_up", "Whether the host's agent answers: 1 or 0.", HOST,
                [({"host": host.name}, is_up(host)) for host in hosts])  # fmt: skip
    seen = [({"host": host.name}, host.last_seen_at and host.last_seen_at.timestamp()) for host in hosts]
    yield gauge("host_last_seen_timestamp_seconds", "When its agent answered last.", HOST, seen)
    facts = ("host", "platform", "cpu_name", "agent_version", "python_version", "driver_version", "cuda_driver_version")
    yield info("host", "What doesn't change while an agent runs.", facts,
               [{**host.facts, "host": host.name} for host in hosts])  # fmt: skip
    skews = [({"host": host.name}, host.clock_skew_seconds) for host in present]
    yield gauge("host_clock_skew_seconds", "How far its clock runs ahead of the web server's.", HOST, skews)
    for field, (name, text, factor) in HOST_FIGURES.items():
        yield gauge(name, text, HOST, [({"host": host.name}, host.reading.get(field)) for host in present], factor)
    for field, (label, key, figures) in HOST_LISTS.items():
        for figure, (name, text) in figures.items():
            yield gauge(name, text, ("host", label), _entries(present, field, (label, key), figure))


def is_up(host: Host) -> bool:
    """Whether its figures are those of now."""
    return host.is_online and not host.fault


def _entries(hosts: list[Host], field: str, names: tuple[str, str], figure: str) -> list[Labelled]:
    """A figure of every entry of a list; entries of one name (two sensors called alike) are numbered."""
    label, key = names
    found: dict[tuple[str, str], Any] = {}
    for host in hosts:
        for entry in host.reading.get(field) or ():
            name, again = str(entry[key]), 2
            while (host.name, name) in found:
                name, again = f"{entry[key]} {again}", again + 1
            found[host.name, name] = entry.get(figure)
    return [({"host": host, label: name}, value) for (host, name), value in found.items()]


def gpu_families() -> Iterator[Metric]:
    """The cards that hosts which are there named last."""
    cards = present_gpus()
    labelled = [(labels_of(card), card) for card in cards]

    def of(figure: Callable[[Gpu], Any]) -> list[Labelled]:
        return [(labels, figure(card)) for labels, card in labelled]

    yield gauge("gpu_up", "Whether the card can be read: 1 or 0.", GPU, of(lambda card: not card.reading.get("fault")))
    for field, (name, text, factor) in GPU_FIGURES.items():
        yield gauge(name, text, GPU, [(labels, card.reading.get(field)) for labels, card in labelled], factor)
    kinds = (("corrected", "ecc_corrected_count"), ("uncorrected", "ecc_uncorrected_count"))
    yield counter(
        "gpu_ecc_errors", "Memory errors that the card counted.", (*GPU, "kind"),
        [({**labels, "kind": kind}, card.reading.get(field)) for labels, card in labelled for kind, field in kinds],
    )  # fmt: skip
    yield gauge(
        "gpu_throttle_reason", "1 for each of NVML's reasons that hold the clocks down now.", (*GPU, "reason"),
        [({**labels, "reason": word}, 1) for labels, card in labelled for word in _list(card, "throttle_reasons")],
    )  # fmt: skip
    yield gauge("gpu_processes", "Processes that hold memory of the card.", GPU,
                of(lambda card: None if card.reading.get("fault") else len(_list(card, "processes"))))  # fmt: skip
    yield gauge("gpu_memory_unowned_bytes", "Memory held by processes that no live job owns.", GPU, of(_unowned))
    yield gauge("gpu_heat_level", "0 cool, 1 power is stepped down, 2 new jobs wait, 3 running jobs are paused.", GPU,
                of(lambda card: card.heat_level))  # fmt: skip


def present_gpus() -> list[Gpu]:
    """By host and index."""
    rows = Gpu.objects.select_related("host").order_by("host__name", "index")
    return [row for row in rows if is_up(row.host) and row.is_reported]


def labels_of(card: Gpu) -> dict[str, str]:
    """Who a card is."""
    return {"host": card.host.name, "gpu": str(card.index), "uuid": card.uuid, "name": card.name}


def _list(card: Gpu, field: str) -> list[Any]:
    return card.reading.get(field) or []


def _unowned(card: Gpu) -> int | None:
    """None where the card can't be read, or where a process that nobody owns doesn't tell what it holds."""
    if card.reading.get("fault"):
        return None
    held = [process.get("memory_used_bytes") for process in _list(card, "processes") if process["job_id"] is None]
    return None if None in held else sum(held)
