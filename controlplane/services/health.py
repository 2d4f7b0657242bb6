"""How the product and its hosts are: what GET /api/health and its neighbours answer. Runs in the web process.

Figures come from what the agents reported last; nothing is measured here. Gigabytes and megabytes on the wire are
binary (2**30, 2**20), as torch and NVML count them. `None` stands for "not known".
"""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings as django_settings

from controlplane.databases import several
from controlplane.errors import NotFoundError
from controlplane.models import Deployment, Gpu, Host, Job
from controlplane.models.datasets import PART_BYTES
from controlplane.models.deployments import DeploymentStatus
from controlplane.models.jobs import Kind, Status
from controlplane.services import leases, settings
from controlplane.services.dataset_intake import SMALL_FILE_BYTES

API_VERSION = "1"
MASK = "********"
GIB = 1 << 30
MIB = 1 << 20


def _gib(value: int | float | None) -> float | None:
    return None if value is None else round(value / GIB, 3)


def _mib(value: int | float | None) -> int | None:
    return None if value is None else round(value / MIB)


def health() -> dict[str, Any]:
    """The whole of GET /api/health; `degraded` when a host is away, nobody dispatches or an engine isn't ready."""
    hosts = list(Host.objects.all())
    online = [host for host in hosts if host.is_online]
    active = Deployment.objects.filter(is_active=True).select_related("model").first()
    dispatching = not several() or leases.holder() is not None  # on SQLite the one web process does
    serving = active is None or active.status == DeploymentStatus.READY
    whole = len(online) == len(hosts) > 0 and serving and dispatching
    return {
        "status": "ok" if whole else "degraded",
        "gpu": _gpu_summary(),
        "active_model": active.model.name if active else None,
        "worker_busy": Job.objects.filter(status=Status.RUNNING).exclude(kind=Kind.SERVE).exists(),
        "hosts": {"online": len(online), "total": len(hosts)},
        "dispatching": dispatching,
    }


def _gpu_summary() -> dict[str, Any]:
    """All GPUs as one. Reserved memory is torch's own notion, which no agent can see."""
    present = [gpu for gpu in gpus() if gpu.host.is_online]
    used = [gpu.reading.get("memory_used_bytes") for gpu in present]
    known = [value for value in used if value is not None]
    return {
        "available": bool(present), "device_count": len(present),
        "device_name": present[0].name if present else None,
        "memory_allocated_gb": _gib(sum(known)) if known else None, "memory_reserved_gb": None,
    }  # fmt: skip


def info() -> dict[str, Any]:
    """What a client may know of the server: paths, limits, features."""
    return {
        "name": "Pilothouse",
        "version": _installed("pilothouse"),
        "base_paths": {"api": "/api", "openai": ["/v1", "/api/v1"], "docs": "/api/docs", "live": "/ws/live"},
        "limits": {
            "upload_bytes": settings.get("uploads.max_bytes"), "upload_part_bytes": PART_BYTES,
            "form_upload_bytes": SMALL_FILE_BYTES, "queue_length": settings.get("generate.max_waiting"),
            "max_tokens": _context_tokens(),
        },
        "features": {
            "streaming": True, "chunked_uploads": True, "websocket": True, "openai_compatible": True,
            "power_profiles": True, "training": True, "generate": True,
        },
    }  # fmt: skip


def _context_tokens() -> int | None:
    """How many tokens prompt and answer of the active model may have together; None where its files don't say."""
    active = Deployment.objects.filter(is_active=True).select_related("model__base").first()
    if active is None:
        return None
    folder = (active.model.base or active.model).folder
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return int((config.get("text_config") or config)["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, Any]:
    """Versions, read from the installed packages' own records: torch is never imported here."""
    cuda = next((host.facts.get("cuda_driver_version") for host in Host.objects.order_by("name") if host.facts), None)
    return {
        "version": _installed("pilothouse"), "api_version": API_VERSION, "python_version": platform.python_version(),
        "torch_version": _installed("torch"), "transformers_version": _installed("transformers"),
        "cuda_available": bool(cuda) and bool(gpus()), "cuda_version": cuda,
    }  # fmt: skip


def _host(name: str) -> Host:
    host = Host.objects.filter(name=name).first()
    if host is None:
        raise NotFoundError(f"There is no host {name!r}. GET /api/hosts lists them.")
    return host


def gpus(host: str | None = None, index: int | None = None) -> list[Gpu]:
    """The GPUs that their hosts named last, by host and index. Raises NotFoundError for an unknown host."""
    rows = Gpu.objects.select_related("host").order_by("host__name", "index")
    if host is not None:
        rows = rows.filter(host=_host(host))
    if index is not None:
        rows = rows.filter(index=index)
    return [row for row in rows if row.is_reported]


def gpu(host: str | None = None, index: int | None = None) -> dict[str, Any]:
    """The first GPU's figures and, under `gpus`, the same for each. With none: `name` None, `gpus` [].

    Raises NotFoundError for a host or an index that was named and isn't there.
    """
    rows = gpus(host, index)
    if not rows and index is not None:
        raise NotFoundError(f"There is no GPU {index}. GET /api/gpu lists them.")
    figures = [_gpu_figures(row) for row in rows]
    return {**(figures[0] if figures else dict.fromkeys(_NO_FIGURES)), "gpus": figures}


_NO_FIGURES = (
    "host", "index", "uuid", "name", "driver_version", "memory_total_mb", "memory_used_mb", "utilization_gpu",
    "utilization_mem", "temperature_gpu", "power_draw_w", "power_limit_w", "fan_speed_pct", "fault",
)  # fmt: skip


def _gpu_figures(row: Gpu) -> dict[str, Any]:
    reading = row.reading
    return {
        "host": row.host.name, "index": row.index, "uuid": row.uuid, "name": row.name,
        "driver_version": row.host.facts.get("driver_version"),
        "memory_total_mb": _mib(reading.get("memory_total_bytes")),
        "memory_used_mb": _mib(reading.get("memory_used_bytes")),
        "utilization_gpu": reading.get("utilization_gpu_percent"),
        "utilization_mem": reading.get("utilization_memory_percent"),
        "temperature_gpu": reading.get("temperature_celsius"), "power_draw_w": reading.get("power_draw_watts"),
        "power_limit_w": reading.get("power_limit_watts"), "fan_speed_pct": reading.get("fan_speed_percent"),
        "fault": reading.get("fault"),
    }  # fmt: skip


def system(host: str | None = None) -> dict[str, Any]:
    """Processor, memory and disks of a host (the first by name where none is named), as it reported them last.

    Raises NotFoundError for a host that isn't there, or before the first one has reported.
    """
    row = _host(host) if host is not None else Host.objects.order_by("name").first()
    if row is None or not row.reading:
        raise NotFoundError("No host has reported yet. Start its agent (bin/up), then ask again.")
    reading = row.reading
    used, total = reading["memory_used_bytes"], reading["memory_total_bytes"]
    return {
        "host": row.name, "online": row.is_online, "cpu_load": reading["load_1m"],
        "cpu_percent": reading["cpu_percent"],
        "cpu_count": reading["cpu_count"], "ram_used_gb": _gib(used), "ram_total_gb": _gib(total),
        "ram_percent": round(100 * used / total, 1) if total else None,
        "disk": [
            {
                "mount": disk["mount"], "used_gb": _gib(disk["used_bytes"]), "total_gb": _gib(disk["total_bytes"]),
                "percent": round(100 * disk["used_bytes"] / disk["total_bytes"], 1) if disk["total_bytes"] else None,
            }
            for disk in reading["disks"]
        ],
    }  # fmt: skip


def effective_config() -> dict[str, Any]:
    """The configuration in force; whatever could open a door is masked."""
    database = django_settings.DATABASES["default"]
    layer = django_settings.CHANNEL_LAYERS["default"]
    redis = [masked_url(str(host)) for host in layer.get("CONFIG", {}).get("hosts", [])]
    return {
        "home": str(django_settings.HOME),
        "debug": django_settings.DEBUG,
        "allowed_hosts": list(django_settings.ALLOWED_HOSTS),
        "trusted_origins": list(django_settings.CSRF_TRUSTED_ORIGINS),
        "time_zone": django_settings.TIME_ZONE,
        "secret_key": MASK,
        "database": {
            "engine": database["ENGINE"].rpartition(".")[2], "name": str(database["NAME"]),
            "host": database.get("HOST") or None, "user": database.get("USER") or None,
            "password": MASK if database.get("PASSWORD") else None,
        },
        "channel_layer": {"backend": layer["BACKEND"].rpartition(".")[2], "redis": redis},
        "settings": settings.effective(),
    }  # fmt: skip


def masked_url(url: str) -> str:
    """An address without the password that it may hold."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    name = f"{parts.username or ''}:{MASK}@{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")
    return urlunsplit(parts._replace(netloc=name))
