"""Hosts, their history, GPU memory without an owner: /api/hosts, /api/gpu/history, /api/gpu/processes. Web process."""

from collections.abc import Sequence
from typing import Any

from ninja import Query, Router

from controlplane.api.keys import ActorRequest
from controlplane.api.moments import moment
from controlplane.api.schemas.hosts import (
    EndedProcess,
    EndProcess,
    History,
    Host,
    HostEdit,
    HostList,
    OwnerlessList,
    Span,
    UpkeepChange,
)  # fmt: skip
from controlplane.errors import FieldFault, InvalidInputError, NotFoundError
from controlplane.models import Host as HostRow
from controlplane.services import gpu_processes, health, host_settings, hosts, telemetry, upkeep

router = Router(tags=["Hosts"])

DEFAULT_MINUTES = 15.0


def _host(row: HostRow) -> dict[str, Any]:
    return {
        "name": row.name, "carrier": row.carrier, "online": row.is_online, "last_seen_at": row.last_seen_at,
        "fault": row.fault, "clock_skew_seconds": row.clock_skew_seconds, "facts": row.facts, "reading": row.reading,
        "role": row.role, "labels": row.labels, "group": row.group, "address": row.address, "state": row.state,
        "note": row.upkeep_note, "on_loss": row.on_loss, "lost_at": row.lost_at,
        "gpus": [
            {"index": gpu.index, "uuid": gpu.uuid, "state": gpu.state, "note": gpu.upkeep_note}
            for gpu in hosts.gpus_of(row)
        ],
    }  # fmt: skip


@router.get("/hosts", response=HostList)
def list_hosts(request: ActorRequest) -> dict[str, Any]:
    """All hosts with what their agents reported last."""
    return {"hosts": [_host(row) for row in hosts.list_hosts()]}


@router.get("/hosts/{name}", response=Host)
def get_host(request: ActorRequest, name: str) -> dict[str, Any]:
    """One host."""
    return _host(hosts.get(name))


@router.patch("/hosts/{name}", response=Host)
def edit_host(request: ActorRequest, name: str, payload: HostEdit) -> dict[str, Any]:
    """Changes what a host is for (`role`), its labels, group and the address at which others reach it (admin)."""
    return _host(host_settings.edit(request.actor, name, **payload.dict()))


@router.put("/hosts/{name}/state", response=Host)
def set_state(request: ActorRequest, name: str, payload: UpkeepChange) -> dict[str, Any]:
    """Opens a host, drains it or puts it into maintenance (admin): see “Drain and maintenance” in docs/fleet.md."""
    return _host(upkeep.set_host(request.actor, name, payload.state, payload.reason))


@router.put("/hosts/{name}/gpus/{int:index}/state", response=Host)
def set_gpu_state(request: ActorRequest, name: str, index: int, payload: UpkeepChange) -> dict[str, Any]:
    """The same for one of its GPUs (admin)."""
    upkeep.set_gpu(request.actor, name, index, payload.state, payload.reason)
    return _host(hosts.get(name))


@router.get("/hosts/{name}/history", response=History)
def get_history(request: ActorRequest, name: str, asked: Query[Span]) -> telemetry.History:
    """Figures of a host over time, at a resolution that fits the span.

    `names`: the host's own without it. A GPU's begin with its UUID and a stroke: `GPU-…/power_draw_watts`.
    """
    start, end = _times(hosts.get(name), asked)
    return telemetry.history(name, _split(asked.names) or telemetry.HOST_NAMES, start, end, asked.max_points)


@router.get("/gpu/history", response=History)
def get_gpu_history(
    request: ActorRequest, asked: Query[Span], host: str | None = None, index: int = 0
) -> telemetry.History:
    """The same of one GPU (the first host's first without `host` and `index`), under plain names."""
    found = health.gpus(host, index)
    if not found:
        raise NotFoundError(f"There is no GPU {index}. GET /api/gpu lists them.")
    gpu = found[0]
    start, end = _times(gpu.host, asked)
    names = [f"{gpu.uuid}/{one}" for one in _split(asked.names) or telemetry.GPU_NAMES]
    answer = telemetry.history(gpu.host.name, names, start, end, asked.max_points)
    return {**answer, "series": {one.partition("/")[2]: line for one, line in answer["series"].items()}}


def _split(names: Sequence[str]) -> list[str]:
    return [name for item in names for name in item.split(",") if name]


def _times(host: HostRow, asked: Span) -> tuple[float, float]:
    """The time asked for, in Unix seconds of the host's clock."""
    if asked.minutes is not None and asked.begin is not None:
        raise InvalidInputError("Ask for `minutes` or for `from`, not for both.", (FieldFault("minutes", "or from"),))
    end = telemetry.host_now(host) if asked.end is None else moment("to", asked.end).timestamp()
    if asked.begin is not None:
        return moment("from", asked.begin).timestamp(), end
    return end - 60 * (asked.minutes or DEFAULT_MINUTES), end


# --- GPU memory without an owner --------------------------------------------------------------------------------------


@router.get("/gpu/processes", response=OwnerlessList)
def list_ownerless(request: ActorRequest, host: str | None = None) -> dict[str, Any]:
    """The processes that hold GPU memory and that no live job owns, the largest first."""
    return {"processes": gpu_processes.list_ownerless(host)}


@router.post("/gpu/processes/end", response=EndedProcess)
def end_process(request: ActorRequest, payload: EndProcess) -> gpu_processes.Outcome:
    """Ends one of them (admin): SIGTERM, then SIGKILL. What Pilothouse hasn't started needs `others` as well."""
    return gpu_processes.end(
        request.actor, payload.host, payload.pid, payload.start_ticks, payload.boot_id, others=payload.others
    )
