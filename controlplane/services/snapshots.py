"""Snapshots of models, checkpoints and datasets: taken daily or when asked, restored. Runs in the web process.

What is the same as in an earlier snapshot isn't copied again (`snapshot_store`). What is copied is read back and
compared with the hash that it had when it was written, so a damaged file is told and never offered.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, NotFoundError
from controlplane.models import Job
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import ENDED, Kind
from controlplane.services import checkpoints, jobs, settings, snapshot_items, snapshot_return
from controlplane.services.access import audit
from controlplane.services.disk_room import FREE_SOME, require_room
from controlplane.services.home_lock import alone
from controlplane.services.job_progress import JobProgress
from controlplane.services.snapshot_items import Contents, Item
from controlplane.services.snapshot_looks import within_deadline
from controlplane.services.snapshot_store import DamagedError, Snapshot, SnapshotStore
from monitoring.files import publish_folder, sha256_of


def address() -> str:
    """Where snapshots go. Raises ConflictError where nothing is set."""
    value: str = settings.get("snapshots.address")
    if not value:
        raise ConflictError("No address for snapshots is set. Set snapshots.address to a folder or an address first.")
    return value


def store() -> SnapshotStore:
    """What lies at the address. Raises ConflictError where none is set, UnavailableError where it can't be used."""
    return SnapshotStore(address())


# --- Asking for one ---------------------------------------------------------------------------------------------------


def queue_take(actor: Actor) -> Job:
    """Queues a snapshot. Raises ConflictError without an address, and while one is already queued or taken."""
    actor.require(Role.ADMIN)
    address()
    if (running := _open()) is not None:
        raise ConflictError(f"Job {running.pk} is taking or restoring a snapshot already. Wait for it.")
    return jobs.create(actor, Kind.BACKUP, "Snapshot", {"action": "take"})


def queue_restore(actor: Actor, name: str, key: str) -> Job:
    """Queues the restoring of one item of a snapshot. Raises NotFoundError, ConflictError."""
    actor.require(Role.ADMIN)
    snapshot = get(name)
    item = _item(snapshot, key)
    snapshot_return.place_of(item, Path(django_settings.HOME), name)
    config = {"action": "restore", "snapshot": name, "item": key}
    return jobs.create(actor, Kind.BACKUP, f"Restore {item['title']} of {name}", config)


def plan_due() -> Job | None:
    """The duty: queues the day's snapshot once its time (local, `snapshots.at`) has come; one that was missed, late."""
    at = settings.get("snapshots.at")
    if not settings.get("snapshots.address") or not at:
        return None
    now = timezone.localtime()
    due = now.replace(hour=int(at[:2]), minute=int(at[3:]), second=0, microsecond=0)
    due -= timedelta(days=1) if due > now else timedelta()
    taken = Job.objects.filter(kind=Kind.BACKUP, config__action="take", created_at__gte=due).exists()
    return None if taken or _open() is not None else queue_take(SYSTEM)


def _open() -> Job | None:
    return Job.objects.filter(kind=Kind.BACKUP).exclude(status__in=ENDED).first()


# --- Looking ----------------------------------------------------------------------------------------------------------


def list_snapshots() -> list[dict[str, Any]]:
    """{"name", "created_at", "items", "bytes", "fault"} of each, the newest first. A torn one has a fault."""
    return within_deadline(address(), lambda place: [_facts(place, name) for name in reversed(place.names())])


def _facts(place: SnapshotStore, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "created_at": None, "items": None, "bytes": None, "fault": ""}
    try:
        snapshot = place.read(name)
    except (DamagedError, NotFoundError) as error:
        return {**facts, "fault": error.message}
    return {**facts, "created_at": snapshot.created_at, "items": len(snapshot.items), "bytes": snapshot.size_bytes}


def get(name: str) -> Snapshot:
    """One snapshot with its items. Raises NotFoundError, DamagedError, UnavailableError."""
    return within_deadline(address(), lambda place: place.read(name))


# --- Taking -----------------------------------------------------------------------------------------------------------


def take(*, job_id: int | None = None) -> dict[str, Any]:
    """Takes a snapshot now; returns what came of it. Raises PilothouseError, JobCancelledError."""
    with alone("snapshots.lock", "snapshot"):
        return _take(store(), job_id)


def _take(place: SnapshotStore, job_id: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=Path(django_settings.HOME) / "tmp", prefix="snapshot-") as scratch:
        found = [snapshot_items.read(item) for item in snapshot_items.collect(Path(scratch))]
        held = place.blobs()
        progress = JobProgress(job_id, sum(contents.size_bytes for contents in found))
        place.require_room(_missing_bytes(found, held))
        taken: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        before = sum(held.values())
        for contents in found:
            try:
                with _held(contents.item):
                    taken.append(_copy(place, contents, held, progress))
            except (DamagedError, NotFoundError, FileNotFoundError) as error:
                skipped.append({"item": contents.item.title, "reason": str(error)})
    snapshot = Snapshot(_new_name(place), datetime.now(UTC).isoformat(), taken)
    place.write(snapshot)
    copied = sum(held.values()) - before
    result = {
        "snapshot": snapshot.name, "items": len(taken), "bytes": snapshot.size_bytes, "copied_bytes": copied,
        "skipped": skipped, **prune(place),
    }  # fmt: skip
    with transaction.atomic():
        audit(SYSTEM, "snapshot.take", snapshot.name, **{key: result[key] for key in result if key != "snapshot"})
    return result


@contextmanager
def _held(item: Item) -> Iterator[None]:
    """Keeps a checkpoint from going while it is copied."""
    if item.held is None:
        yield
        return
    checkpoints.mark(item.held, checkpoints.SNAPSHOT)
    try:
        yield
    finally:
        checkpoints.unmark(item.held, checkpoints.SNAPSHOT)


def _missing_bytes(found: list[Contents], held: dict[str, int]) -> int:
    """At most so much will be copied: a file whose hash was noted and is there already will not be."""
    return sum(file.bytes for contents in found for file in contents.files.values() if (file.sha256 or "") not in held)


def _copy(place: SnapshotStore, contents: Contents, held: dict[str, int], progress: JobProgress) -> dict[str, Any]:
    item, files = contents.item, dict[str, dict[str, Any]]()
    if contents.missing:
        raise DamagedError(f"{', '.join(contents.missing[:3])} of {item.title} is missing: it was not copied.")
    for name, file in contents.files.items():
        sha256 = file.sha256 or sha256_of(file.path)
        if held.get(sha256) == file.bytes:
            progress.add(file.bytes, item.title)
        else:
            place.put(file.path, sha256, lambda done: progress.add(done, item.title))
            held[sha256] = file.bytes
        files[name] = {"bytes": file.bytes, "sha256": sha256}
    return {
        "key": item.key, "kind": item.kind, "title": item.title, "bytes": contents.size_bytes, "facts": item.facts,
        "files": files,
    }  # fmt: skip


def _new_name(place: SnapshotStore) -> str:
    moment, names = datetime.now(UTC), place.names()
    while (name := f"{moment:%Y%m%dT%H%M%SZ}") in names:
        moment += timedelta(seconds=1)
    return name


def prune(place: SnapshotStore) -> dict[str, int]:
    """Forgets the oldest snapshots beyond `snapshots.keep`, and the files that no snapshot has any more.

    While one is torn nobody knows what belongs to it, so no file is taken away.
    """
    names = place.names()
    surplus = names[: max(0, len(names) - settings.get("snapshots.keep"))]
    for name in surplus:
        place.forget(name)
    try:
        left = [place.read(name) for name in names if name not in surplus]
    except DamagedError:
        return {"removed_snapshots": len(surplus), "freed_bytes": 0}
    needed = {file["sha256"] for snapshot in left for item in snapshot.items for file in item["files"].values()}
    unused = {sha256: size for sha256, size in place.blobs().items() if sha256 not in needed}
    for sha256 in unused:
        place.remove_blob(sha256)
    return {"removed_snapshots": len(surplus), "freed_bytes": sum(unused.values())}


# --- Restoring --------------------------------------------------------------------------------------------------------


def restore(name: str, key: str, *, job_id: int | None = None) -> dict[str, Any]:
    """Puts one item back; every file is compared with its hash first. Returns where it is.

    Raises NotFoundError, ConflictError (it is there already), DamagedError (nothing is restored), UnavailableError.
    """
    place, home = store(), Path(django_settings.HOME)
    item = _item(place.read(name), key)
    snapshot_return.check_names(item)
    final = snapshot_return.place_of(item, home, name)
    require_room(home, item["bytes"], f"restoring {item['title']}", FREE_SOME)
    progress = JobProgress(job_id, item["bytes"])
    with tempfile.TemporaryDirectory(dir=home / "tmp", prefix="restore-") as scratch:
        folder = Path(scratch) / "item"
        for file, facts in item["files"].items():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            place.fetch(facts["sha256"], target, lambda done: progress.add(done, item["title"]))
        try:
            publish_folder(folder, final)
        except FileExistsError as error:
            raise ConflictError(f"{item['title']} has just come back by another way.") from error
        try:
            snapshot_return.register(item)
        except BaseException:
            final.rename(Path(scratch) / "refused")  # files without a row would be in the way of the next try
            raise
    with transaction.atomic():
        audit(SYSTEM, "snapshot.restore", key, snapshot=name, bytes=item["bytes"])
    return {"snapshot": name, "item": key, "path": str(final), "bytes": item["bytes"]}


def _item(snapshot: Snapshot, key: str) -> dict[str, Any]:
    found = next((item for item in snapshot.items if item["key"] == key), None)
    if found is None:
        raise NotFoundError(f"Snapshot {snapshot.name} has no item {key!r}.")
    return found


def facts(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot with its items, without their single files."""
    kept = ("key", "kind", "title", "bytes")
    values = asdict(snapshot)
    return {**values, "bytes": snapshot.size_bytes, "items": [{k: item[k] for k in kept} for item in snapshot.items]}
