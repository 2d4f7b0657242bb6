"""Files between the library and hosts: copies, transfers, shared file systems. Runs in the web process."""

from typing import Any

from ninja import Router

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.files import Cleared, HostFiles, SharedFiles, TransferFacts, TransferList
from controlplane.errors import UnavailableError
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.models import Host
from controlplane.services import artefacts, copies, hosts, shared_files, transfers

router = Router(tags=["Hosts"])


def _files(host: Host) -> dict[str, Any]:
    held = copies.of_host(host)
    return {
        "host": host.name, "is_apart": artefacts.is_apart(host), "shared": host.shared_files,
        "limit_bytes": copies.limit_bytes(), "held_bytes": sum(one.row.bytes for one in held),
        "copies": [_copy(one) for one in held],
        "transfers": [transfers.facts(row) for row in transfers.of_host(host)],
    }  # fmt: skip


def _copy(held: copies.Held) -> dict[str, Any]:
    row = held.row
    return {
        "kind": row.item_kind, "item": row.item_id, "title": row.title, "bytes": row.bytes, "used_at": row.used_at,
        "arrived_at": row.arrived_at, "in_use": held.in_use,
    }  # fmt: skip


@router.get("/hosts/{name}/files", response=HostFiles)
def get_host_files(request: ActorRequest, name: str) -> dict[str, Any]:
    """What a host holds of the library, and what is on its way there and back."""
    return _files(hosts.get(name))


@router.delete("/hosts/{name}/files", response=Cleared)
def clear_host_files(request: ActorRequest, name: str) -> dict[str, int]:
    """Takes away the copies that no job works with (admin); they are copied again when one needs them."""
    host = hosts.get(name)
    try:
        return {"freed_bytes": copies.clear(request.actor, host)}
    except HostUnreachableError as error:
        raise UnavailableError(f"{name} doesn't answer: its copies can't be cleared now.", 10) from error


@router.put("/hosts/{name}/files/shared", response=HostFiles)
def declare_shared_files(request: ActorRequest, name: str, payload: SharedFiles) -> dict[str, Any]:
    """Says that the host sees a folder of the control plane's (admin): nothing is copied then. Empty: not any more."""
    return _files(shared_files.declare(request.actor, name, payload.here, payload.there))


@router.get("/transfers", response=TransferList)
def list_transfers(request: ActorRequest, host: str | None = None) -> dict[str, Any]:
    """Every live transfer or, with `host`, all of that one, the live ones first."""
    rows = transfers.of_host(hosts.get(host)) if host else list(transfers.live())
    return {"transfers": [transfers.facts(row) for row in rows]}


@router.get("/transfers/{transfer_id}", response=TransferFacts)
def get_transfer(request: ActorRequest, transfer_id: int) -> dict[str, Any]:
    """One transfer."""
    return transfers.facts(transfers.get(transfer_id))


@router.post("/transfers/{transfer_id}/cancel", response=TransferFacts)
def cancel_transfer(request: ActorRequest, transfer_id: int) -> dict[str, Any]:
    """Ends a transfer; what has come is thrown away, and a job that needs it fails. For an admin or its jobs' owner."""
    return transfers.facts(transfers.cancel(request.actor, transfer_id))
