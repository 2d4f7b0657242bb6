"""What lies in the home folder without being of use to anybody, and taking it away. Runs in the web process and in
`manage.py clean`.

Nothing that a live job uses is touched: rows say what belongs to whom, a job's lock whether its process lives, and what
is younger than `clean.min_age_hours` may still be on its way. Each thing is looked at once more right before it goes.
Where a data base has no row at all of a kind, none of its folders is taken for a leftover: it is likely another one's.
"""

import fcntl
import gzip
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings as django_settings
from django.db import transaction

from controlplane.errors import ConflictError
from controlplane.models import Attempt, Dataset, Job, LanguageModel, Run, Upload
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import ENDED, Kind, Status
from controlplane.services import inbox_files, jobs, settings
from controlplane.services.access import audit
from controlplane.services.disk_walk import measure
from controlplane.services.home_lock import alone
from controlplane.services.job_progress import JobProgress
from monitoring.files import replacing

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class Leftover:
    """Something that may go, or (a `log`) be compressed. `path` is relative to the home folder, if it lies there."""

    kind: str
    path: str
    bytes: int
    why: str


def plan(now: float | None = None) -> list[Leftover]:
    """What cleaning would take away now, the largest first. Changes nothing."""
    moment = time.time() if now is None else now
    found = [leftover for look in LOOKS for leftover in look(_home(), moment)]
    return sorted(found, key=lambda leftover: -leftover.bytes)


def queue(actor: Actor) -> Job:
    """Queues a cleaning; the web process does it. Raises ConflictError while one is queued or at work."""
    actor.require(Role.ADMIN)
    running = Job.objects.filter(kind=Kind.CLEAN).exclude(status__in=ENDED).first()
    if running is not None:
        raise ConflictError(f"Job {running.pk} is cleaning already. Wait for it.")
    return jobs.create(actor, Kind.CLEAN, "Clean the disk", {})


def clean(by: str, *, job_id: int | None = None) -> dict[str, Any]:
    """Takes away what `plan` finds; returns how many things and bytes went. One at a time in a home, by its lock."""
    with alone("clean.lock", "cleaning"):
        found = plan()
        progress = JobProgress(job_id, sum(leftover.bytes for leftover in found))
        things, freed_bytes, by_kind, failed = 0, 0, dict[str, int](), list[str]()
        for leftover in found:
            progress.add(leftover.bytes, leftover.path)
            if leftover not in _again(leftover):
                continue
            try:
                freed = _compress(leftover) if leftover.kind == "log" else _remove(leftover)
            except OSError as error:
                failed.append(f"{leftover.path}: {error.strerror or error}")
                continue
            things += 1
            freed_bytes += freed
            by_kind[leftover.kind] = by_kind.get(leftover.kind, 0) + freed
        result = {"freed_bytes": freed_bytes, "by_kind": by_kind, "things": things, "failed": failed}
        with transaction.atomic():
            audit(Actor(by, Role.ADMIN), "storage.clean", "the home folder", **result)
    return result


def facts(found: list[Leftover]) -> dict[str, Any]:
    """A plan as the API tells it."""
    return {"bytes": sum(leftover.bytes for leftover in found), "items": [asdict(leftover) for leftover in found]}


def _home() -> Path:
    return Path(django_settings.HOME)


def _again(leftover: Leftover) -> list[Leftover]:
    """What the look that found it finds now: in the meantime it may have come into use."""
    path = leftover.path
    return [found for found in LOOKS_BY_KIND[leftover.kind](_home(), time.time()) if found.path == path]


# --- Looking ----------------------------------------------------------------------------------------------------------


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _old(
    home: Path, path: Path, now: float, kind: str, why: str, *, age_seconds: float | None = None
) -> list[Leftover]:
    """The thing as a leftover, when nothing in it has changed for long enough."""
    size = measure(path)
    age = settings.get("clean.min_age_hours") * HOUR if age_seconds is None else age_seconds
    if not size.changed_at or size.changed_at > now - age:
        return []
    shown = path.relative_to(home) if path.is_relative_to(home) else path
    return [Leftover(kind, str(shown), size.bytes, why)]


def _is_locked(attempt_folder: Path) -> bool:
    """Whether a supervisor or a job's process holds the attempt's lock; where that can't be found out, it does."""
    try:
        descriptor = os.open(attempt_folder / "lock", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _lives(home: Path, job_id: int) -> bool:
    """Whether any process of a job is there, whatever its row says."""
    return any(_is_locked(folder) for folder in _children(home / "jobs" / str(job_id) / "attempts"))


def _number(path: Path) -> int | None:
    return int(path.name) if path.name.isascii() and path.name.isdecimal() and len(path.name) < 19 else None


def _models(home: Path, now: float) -> Iterator[Leftover]:
    """Folders of models that have no row; `.UUID.part` is one that is being made."""
    if not LanguageModel.objects.exists():
        return  # another data base, more likely than a home whose models were all deleted
    for path in _children(home / "models"):
        try:
            uuid = UUID(path.name.strip(".").partition(".")[0])
        except ValueError:
            continue  # not named by us
        row = LanguageModel.objects.filter(uuid=uuid).select_related("job", "run__job").first()
        hidden = path.name.startswith(".")
        maker = None if row is None else row.job or (row.run.job if row.run else None)
        if row is None:
            yield from _old(home, path, now, "model", "no model is listed under it")
        elif hidden and (maker is None or (maker.has_ended and not _lives(home, maker.pk))):
            yield from _old(home, path, now, "model", "left half-made by a job that has ended")


def _datasets(home: Path, now: float) -> Iterator[Leftover]:
    known = set(Dataset.objects.values_list("sha256", flat=True))
    for path in _children(home / "datasets") if known else ():
        if len(path.name) == 64 and path.name not in known:
            yield from _old(home, path, now, "dataset", "no dataset is listed under it")


def _runs(home: Path, now: float) -> Iterator[Leftover]:
    rows = {run.pk: run for run in Run.objects.select_related("job")}
    for path in _children(home / "runs") if rows else ():
        number = _number(path)
        if number is None:
            continue
        if number not in rows:
            yield from _old(home, path, now, "run", "its run is deleted")
            continue
        job = rows[number].job
        if job.status in (Status.RUNNING, Status.PENDING) or _lives(home, job.pk):
            continue
        halves = [*path.glob("checkpoints/.step-*.part"), *path.glob("checkpoints/.step-*.gone")]
        for half in sorted(halves):
            yield from _old(home, half, now, "run", "a checkpoint left half-written or half-removed")


def _jobs(home: Path, now: float) -> Iterator[Leftover]:
    known = set(Job.objects.values_list("pk", flat=True))
    for path in _children(home / "jobs") if known else ():
        number = _number(path)
        if number is not None and number not in known and not _lives(home, number):
            yield from _old(home, path, now, "job", "its job is deleted")


def _uploads(home: Path, now: float) -> Iterator[Leftover]:
    known = {str(pk) for pk in Upload.objects.values_list("pk", flat=True)}
    for path in _children(home / "tmp" / "uploads"):
        why = "parts of an upload that nobody went on with" if path.name in known else "its upload was given up"
        yield from _old(home, path, now, "upload", why)


def _temporary(home: Path, now: float) -> Iterator[Leftover]:
    if Job.objects.filter(kind=Kind.BACKUP, status=Status.RUNNING).exists():
        return  # what it works on lies there
    for path in _children(home / "tmp"):
        if path.name not in {"uploads", "inbox"}:
            yield from _old(home, path, now, "tmp", "left by a process that ended early")


def _rejected(home: Path, now: float) -> Iterator[Leftover]:
    """What the inbox could not use, and what stuck half-copied in it."""
    keep_seconds = settings.get("clean.rejected_days") * DAY
    for path in _children(home / "inbox" / "rejected"):
        if _rejected_at(path) <= now - keep_seconds:
            yield from _old(home, path, now, "inbox", "rejected by the inbox", age_seconds=keep_seconds)
    for folder in (home / "inbox" / name for name in inbox_files.FOLDERS):
        for path in _children(folder):
            if path.is_file() and inbox_files.is_unfinished(path.name):
                yield from _old(home, path, now, "inbox", "never copied to its end", age_seconds=keep_seconds)


def _rejected_at(path: Path) -> float:
    """When a file, or what lies beside it, was rejected: then its reason was written. Its own time may be old."""
    for ending in (inbox_files.REASON, inbox_files.SETTINGS, ""):
        reason = path.with_name(f"{path.name.removesuffix(ending)}{inbox_files.REASON}")
        if path.name.endswith(ending) and reason.is_file():
            return reason.stat().st_mtime
    return 0.0


def _logs(home: Path, now: float) -> Iterator[Leftover]:
    """Logs of attempts that another one followed: they are compressed, not taken away."""
    ended = Attempt.objects.filter(ended_at__isnull=False, job__attempt_count__gt=1).select_related("job")
    for attempt in ended.order_by("job_id", "number"):
        path = home / "jobs" / str(attempt.job_id) / "attempts" / str(attempt.number) / "log.txt"
        if attempt.number < attempt.job.attempt_count and path.is_file() and not _is_locked(path.parent):
            days = settings.get("clean.archive_logs_days")
            yield from _old(
                home, path, now, "log", "of an attempt that another followed: compressed", age_seconds=days * DAY
            )


def _marks(home: Path, now: float) -> Iterator[Leftover]:
    """Marks on checkpoints by models that are deleted and snapshots that were cut off."""
    if Job.objects.filter(kind=Kind.BACKUP, status=Status.RUNNING).exists():
        return
    known = {str(uuid) for uuid in LanguageModel.objects.values_list("uuid", flat=True)}
    for path in sorted(home.glob("runs/*/checkpoints/step-*/keep.*")):
        name = path.name.removeprefix("keep.")
        if name != "pin" and name not in known:
            yield from _old(home, path, now, "mark", "keeps a checkpoint for something that is gone")


def _cache(home: Path, now: float) -> Iterator[Leftover]:
    """Downloads that were broken off; whole ones stay, since other installations use them too."""
    base = os.environ.get("PILOTHOUSE_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for path in _children(Path(base) / "pilothouse" / "wheels"):
        if path.name.startswith("."):
            yield from _old(home, path, now, "cache", "a download that was broken off")


Look = Callable[[Path, float], Iterator[Leftover]]
LOOKS_BY_KIND: dict[str, Look] = {
    "model": _models, "dataset": _datasets, "run": _runs, "job": _jobs, "upload": _uploads, "tmp": _temporary,
    "inbox": _rejected, "log": _logs, "mark": _marks, "cache": _cache,
}  # fmt: skip
LOOKS: tuple[Look, ...] = tuple(LOOKS_BY_KIND.values())


# --- Taking away ------------------------------------------------------------------------------------------------------


def _remove(leftover: Leftover) -> int:
    """Takes it away; returns its bytes. It leaves its place first, so that nobody meets half of it."""
    path = _home() / leftover.path
    if path.is_dir() and not path.is_symlink():
        aside = _home() / "tmp" / f"clean-{os.getpid()}-{path.name.strip('.')}"
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside)
    else:
        path.unlink()
    if leftover.kind == "upload":
        with suppress(ValueError):
            Upload.objects.filter(pk=UUID(path.name)).delete()
    return leftover.bytes


def _compress(leftover: Leftover) -> int:
    """`log.txt` becomes `log.txt.gz`; returns the bytes saved."""
    path = _home() / leftover.path
    packed = path.with_name(f"{path.name}.gz")
    with path.open("rb") as source, replacing(packed) as target, gzip.open(target, "wb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)
    path.unlink()
    return max(0, leftover.bytes - measure(packed).bytes)
