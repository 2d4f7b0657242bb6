"""What takes how much of the home folder's disk. Runs in the web process.

Walking through a home may take minutes, so it is done in a thread of its own: who asks waits a moment for it, and
otherwise gets what was measured last, with its time.
"""

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from controlplane.models import Dataset, Job, LanguageModel, Run
from controlplane.row_ids import row_id
from controlplane.services.disk_walk import Size, measure

log = logging.getLogger(__name__)
FRESH_SECONDS = 60.0
PATIENCE_SECONDS = 1.5
WALK_SECONDS = 600.0
LARGEST = 40
KINDS = {
    "models": "Models", "checkpoints": "Checkpoints", "datasets": "Datasets", "jobs": "Logs and events of jobs",
    "uploads": "Uploads in progress", "inbox": "Inbox", "tmp": "Temporary files", "backups": "Backups",
    "database": "Data base", "logs": "Logs of the server", "other": "Other",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A file or folder under the home with its size; `name` is relative to the home."""

    kind: str
    name: str
    size: Size


@dataclass(frozen=True)
class Measurement:
    """What one walk found."""

    home: Path
    places: tuple[Place, ...]
    at: float
    seconds: float


class _Walker:
    """The one walk at a time of this process, and what the last one found."""

    lock = threading.Lock()
    thread: threading.Thread | None = None
    last: Measurement | None = None


def measured(home: Path | None = None) -> Measurement | None:
    """The last measurement if it is fresh, else a new one if that takes a moment, else the old one; None: not yet."""
    home = home or Path(django_settings.HOME)
    with _Walker.lock:
        last = _Walker.last if _Walker.last is not None and _Walker.last.home == home else None
        if last is not None and time.time() - last.at < FRESH_SECONDS:
            return last
        if _Walker.thread is None or not _Walker.thread.is_alive():
            _Walker.thread = threading.Thread(target=_measure, args=(home,), name="disk walk", daemon=True)
            _Walker.thread.start()
        thread = _Walker.thread
    thread.join(PATIENCE_SECONDS)
    with _Walker.lock:
        return _Walker.last if _Walker.last is not None and _Walker.last.home == home else None


def forget() -> None:
    """The next look measures anew: something was taken away."""
    with _Walker.lock:
        _Walker.last = None


def _measure(home: Path) -> None:
    started = time.monotonic()
    try:
        places = tuple(walk(home, started + WALK_SECONDS))
    except TimeoutError:
        log.warning("%s is too large to be measured within %.0f s", home, WALK_SECONDS)
        return
    with _Walker.lock:
        _Walker.last = Measurement(home, places, time.time(), time.monotonic() - started)


def walk(home: Path, deadline: float | None = None) -> Iterator[Place]:
    """Everything under the home, in pieces that somebody can do something about."""
    for path in sorted(home.iterdir()):
        split = {"models": "models", "datasets": "datasets", "runs": "checkpoints", "jobs": "jobs"}.get(path.name)
        if split is not None:
            yield from _each(home, path, split, deadline)
        elif path.name == "tmp":
            yield from (place for place in _each(home, path, "tmp", deadline) if place.name != "tmp/uploads")
            yield from _each(home, path / "uploads", "uploads", deadline)
        elif path.name in ("inbox", "backups", "logs"):
            yield from _each(home, path, path.name, deadline)
        else:
            kind = "database" if path.name.startswith("db.sqlite3") else "other"
            yield Place(kind, path.name, measure(path, deadline))


def _each(home: Path, folder: Path, kind: str, deadline: float | None) -> Iterator[Place]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        yield Place(kind, str(entry.relative_to(home)), measure(entry, deadline))


def report() -> dict[str, Any]:
    """The disk, what takes how much of it by kind, and the largest things; `measured_at` None while it is measured."""
    home = Path(django_settings.HOME)
    disk = shutil.disk_usage(home)
    found = measured(home)
    base = {"home": str(home), "disk_bytes": disk.total, "free_bytes": disk.free, "used_bytes": disk.total - disk.free}
    if found is None:
        return {**base, "measured_at": None, "seconds": None, "bytes": None, "kinds": [], "largest": []}
    places = [place for place in found.places if place.size.bytes]
    largest = sorted(places, key=lambda place: -place.size.bytes)[:LARGEST]
    return {
        **base, "measured_at": found.at, "seconds": round(found.seconds, 3),
        "bytes": sum(place.size.bytes for place in places), "kinds": _by_kind(places), "largest": _named(largest),
    }  # fmt: skip


def _by_kind(places: list[Place]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for place in places:
        row = rows.setdefault(
            place.kind, {"kind": place.kind, "title": KINDS[place.kind], "bytes": 0, "files": 0, "things": 0}
        )
        row["bytes"] += place.size.bytes
        row["files"] += place.size.files
        row["things"] += 1
    return sorted(rows.values(), key=lambda row: -row["bytes"])


def _named(places: list[Place]) -> list[dict[str, Any]]:
    """What people call them: `ref` is a model's name, or a dataset's, run's or job's number; None: nobody owns it."""
    last = {place.name: place.name.rpartition("/")[2] for place in places}
    names = set(last.values())
    numbers = [number for name in names if (number := row_id(name)) is not None]
    models = {str(row.uuid): row for row in LanguageModel.objects.filter(uuid__in=[n for n in names if len(n) == 36])}
    datasets = {row.sha256: row for row in Dataset.objects.filter(sha256__in=[n for n in names if len(n) == 64])}
    runs, jobs = Run.objects.in_bulk(numbers), Job.objects.in_bulk(numbers)
    owners: dict[str, dict[str, tuple[str, Any]]] = {
        "models": {key: (row.name, row.name) for key, row in models.items()},
        "datasets": {key: (str(row), row.pk) for key, row in datasets.items()},
        "checkpoints": {str(key): (str(row), key) for key, row in runs.items()},
        "jobs": {str(key): (str(row), key) for key, row in jobs.items()},
    }
    shown = []
    for place in places:
        title, ref = owners.get(place.kind, {}).get(last[place.name], (place.name, None))
        is_orphan = place.kind in owners and ref is None
        shown.append({
            "kind": place.kind, "title": title, "ref": ref, "path": place.name, "bytes": place.size.bytes,
            "files": place.size.files, "is_orphan": is_orphan,
        })  # fmt: skip
    return shown
