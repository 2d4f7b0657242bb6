"""Snapshots of models and checkpoints: taken daily or when asked, kept so many, restored. Runs in the web process.

What is the same as in an earlier snapshot isn't copied again (`snapshot_store`). What is copied is read back and
compared with the hash that it had when it was written, so a damaged file is told and never offered.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings as django_settings
from django.db import transaction
from django.utils import timezone

from controlplane.errors import ConflictError, NotFoundError, UnavailableError
from controlplane.models import Job
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.models.jobs import ENDED, Kind
from controlplane.services import checkpoints, jobs, settings, snapshot_items
from controlplane.services.access import audit
from controlplane.services.home_lock import alone
from controlplane.services.job_progress import JobProgress
from controlplane.services.snapshot_items import Item
from controlplane.services.snapshot_store import DamagedError, Snapshot, SnapshotStore
from monitoring.files import publish_folder, sha256_of

Found = TypeVar("Found")
LOOK_SECONDS = 15.0
SPARE_BYTES = 1 << 30


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
    snapshot_items.place_of(item, Path(django_settings.HOME), name)
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

    return _within_deadline(lambda place: [_facts(place, name) for name in reversed(place.names())])


def _facts(place: SnapshotStore, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "created_at": None, "items": None, "bytes": None, "fault": ""}
    try:
        snapshot = place.read(name)
    except (DamagedError, NotFoundError) as error:
        return {**facts, "fault": error.message}
    return {**facts, "created_at": snapshot.created_at, "items": len(snapshot.items), "bytes": snapshot.size_bytes}


def get(name: str) -> Snapshot:
    """One snapshot with its items. Raises NotFoundError, DamagedError, UnavailableError."""
    return _within_deadline(lambda place: place.read(name))


def _within_deadline(look: Callable[[SnapshotStore], Found]) -> Found:
    """An address that hangs (a dead share, a cloud) costs a request LOOK_SECONDS and no more."""
    where = address()
    pool = ThreadPoolExecutor(1, "snapshots")
    try:
        return pool.submit(lambda: look(SnapshotStore(where))).result(LOOK_SECONDS)
    except TimeoutError as error:
        raise UnavailableError(f"The snapshots' address has not answered within {LOOK_SECONDS:.0f} s.", 60) from error
    finally:
        pool.shutdown(wait=False)


# --- Taking -----------------------------------------------------------------------------------------------------------


def take(*, job_id: int | None = None) -> dict[str, Any]:
    """Takes a snapshot now; returns what came of it. Raises PilothouseError, JobCancelledError."""
    with alone("snapshots.lock", "snapshot"):
        return _take(store(), job_id)


def _take(place: SnapshotStore, job_id: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=Path(django_settings.HOME) / "tmp", prefix="snapshot-") as scratch:
        items = snapshot_items.collect(Path(scratch), with_database=settings.get("snapshots.database"))
        held = place.blobs()
        progress = JobProgress(job_id, sum(path.stat().st_size for item in items for path in item.files().values()))
        place.require_room(_missing_bytes(items, held))
        taken: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        before = sum(held.values())
        for item in items:
            try:
                with _held(item):
                    taken.append(_copy(place, item, held, progress))
            except (DamagedError, NotFoundError, FileNotFoundError) as error:
                skipped.append({"item": item.title, "reason": str(error)})
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


def _missing_bytes(items: list[Item], held: dict[str, int]) -> int:
    """At most so much will be copied: a file whose hash was noted and is there already will not be."""
    return sum(
        path.stat().st_size
        for item in items
        for known in [item.known_hashes()]
        for name, path in item.files().items()
        if known.get(name) not in held
    )


def _copy(place: SnapshotStore, item: Item, held: dict[str, int], progress: JobProgress) -> dict[str, Any]:
    known, present = item.known_hashes(), item.files()
    files: dict[str, dict[str, Any]] = {}
    if missing := sorted(set(known) - set(present)):
        raise DamagedError(f"{', '.join(missing[:3])} of {item.title} is missing: it was not copied.")
    for name, path in present.items():
        size = path.stat().st_size
        sha256 = known.get(name) or sha256_of(path)
        if held.get(sha256) == size:
            progress.add(size, item.title)
        else:
            place.put(path, sha256, lambda done: progress.add(done, item.title))
            held[sha256] = size
        files[name] = {"bytes": size, "sha256": sha256}
    total = sum(file["bytes"] for file in files.values())
    return {
        "key": item.key, "kind": item.kind, "title": item.title, "bytes": total, "facts": item.facts, "files": files,
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
    snapshot_items.check_names(item)
    final = snapshot_items.place_of(item, home, name)
    free = shutil.disk_usage(home).free
    if free < item["bytes"] + SPARE_BYTES:
        raise UnavailableError(
            f"The disk of {home} has {free / 1e9:.1f} GB left; restoring {item['title']} needs "
            f"{(item['bytes'] + SPARE_BYTES) / 1e9:.1f} GB. Free some (Settings, Storage).", 60
        )  # fmt: skip
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
    snapshot_items.register(item)
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
