"""The disk: what takes it, cleaning, snapshots: /api/storage. Runs in the web process."""

from typing import Any

from ninja import Router, Status

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.storage import (
    Clean,
    InnerJob,
    Leftovers,
    Restore,
    Snapshot,
    Storage,
    WholeSnapshot,
)
from controlplane.models import Job
from controlplane.services import cleaning, snapshots, storage

router = Router(tags=["Storage"])


@router.get("/storage", response=Storage)
def get_storage(request: ActorRequest) -> dict[str, Any]:
    """What takes how much of the disk, by kind, and the largest things."""
    return storage.report()


@router.post("/storage/clean", response={202: InnerJob})
def clean(request: ActorRequest, payload: Clean) -> Status[dict[str, Any]]:
    """Takes away what nobody owns any more, by a job; with `dry_run` it only looks what that is. Admins."""
    queue = cleaning.queue_look if payload.dry_run else cleaning.queue
    return Status(202, _facts(queue(request.actor)))


@router.get("/storage/leftovers", response=Leftovers)
def get_leftovers(request: ActorRequest) -> dict[str, Any]:
    """What the last look has found that nobody owns, the largest first. Admins."""
    return cleaning.kept(request.actor)


@router.get("/storage/snapshots", response=list[Snapshot])
def list_snapshots(request: ActorRequest) -> list[dict[str, Any]]:
    """The snapshots at the address, newest first."""
    return snapshots.list_snapshots()


@router.post("/storage/snapshots", response={202: InnerJob})
def take_snapshot(request: ActorRequest) -> Status[dict[str, Any]]:
    """Takes a snapshot now, by a job. Admins."""
    return Status(202, _facts(snapshots.queue_take(request.actor)))


@router.get("/storage/snapshots/{name}", response=WholeSnapshot)
def get_snapshot(request: ActorRequest, name: str) -> dict[str, Any]:
    """One snapshot and what can be restored of it."""
    return snapshots.facts(snapshots.get(name))


@router.post("/storage/snapshots/{name}/restore", response={202: InnerJob})
def restore(request: ActorRequest, name: str, payload: Restore) -> Status[dict[str, Any]]:
    """Puts one item back, by a job; what is there already is never overwritten (409). Admins."""
    return Status(202, _facts(snapshots.queue_restore(request.actor, name, payload.item)))


def _facts(job: Job) -> dict[str, Any]:
    return {"job_id": job.pk, "status": job.status, "config": job.config}
