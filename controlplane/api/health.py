"""Health and facts: /api/health, /info, /version, /gpu, /system, /logs, /config. Runs in the web process."""

from typing import Any

from django.http import HttpRequest
from ninja import Router

from controlplane.api.keys import ActorRequest, caller
from controlplane.api.schemas.health import GpuAnswer, Health, Info, Liveness, LogLines, System, Versions
from controlplane.services import health, logs

router = Router(tags=["Health and facts"])


@router.get("/health", auth=None, response=Health | Liveness)
def get_health(request: HttpRequest) -> dict[str, Any]:
    """Whether everything runs. Without a key only `{"status": "ok"}`."""
    if caller(request) is None:
        return {"status": "ok"}
    return health.health()


@router.get("/info", response=Info)
def get_info(request: ActorRequest) -> dict[str, Any]:
    """Names, base paths, limits and features of this server."""
    return health.info()


@router.get("/version", response=Versions)
def get_version(request: ActorRequest) -> dict[str, Any]:
    """Versions of the product, Python, torch, transformers and CUDA."""
    return health.versions()


@router.get("/gpu", response=GpuAnswer)
def get_gpu(request: ActorRequest, host: str | None = None, index: int | None = None) -> dict[str, Any]:
    """The first GPU's figures, and each one's under `gpus`."""
    return health.gpu(host, index)


@router.get("/system", response=System)
def get_system(request: ActorRequest, host: str | None = None) -> dict[str, Any]:
    """Processor, memory and disks of a host."""
    return health.system(host)


@router.get("/logs/{component}", response=LogLines)
def get_logs(request: ActorRequest, component: str, lines: int = 200) -> dict[str, Any]:
    """The last lines of api_server, gpu_worker, jobs, agent, run-ID or deployment-ID."""
    return {"component": component, "lines": logs.component_lines(component, lines)}


@router.get("/config", response=dict[str, Any])
def get_config(request: ActorRequest) -> dict[str, Any]:
    """The configuration in force, secrets masked."""
    return health.effective_config()
