"""What lies in the home folder without being of use to anybody: a look a kind of thing. Runs in the web process and in
`manage.py clean`.

Nothing that a live job uses is found: rows say what belongs to whom, a job's lock whether its process lives, and what
is younger than `clean.min_age_hours` may still be on its way. Where a data base has no row at all of a kind, none of
its folders is taken for a leftover: it is likely another one's.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from controlplane.models import Attempt, Dataset, Evaluation, Job, LanguageModel, Run, Upload
from controlplane.models.jobs import ENDED, Kind, Status
from controlplane.row_ids import row_id
from controlplane.services import checkpoints, inbox_files, settings
from controlplane.services.disk_walk import measure

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class Leftover:
    """Something that may go, or (a `log`) be compressed. `path` is relative to the home folder, if it lies there."""

    kind: str
    path: str
    bytes: int
    why: str


Only = Sequence[Path] | None
"""A look at these places alone, right before one of them goes; None: at all of its kind."""

Look = Callable[[Path, float, Only], Iterator[Leftover]]
"""Takes the home, the present moment (Unix seconds) and where to look."""


def find(home: Path, now: float) -> list[Leftover]:
    """All there is."""
    return [leftover for look in LOOKS.values() for leftover in look(home, now, None)]


def is_still(home: Path, now: float, leftover: Leftover) -> bool:
    """Whether it is found as it was: in the meantime it may have come into use, or gone."""
    return leftover in LOOKS[leftover.kind](home, now, [home / leftover.path])


# --- Looking at one thing ---------------------------------------------------------------------------------------------


def _children(folder: Path, only: Only = None) -> Sequence[Path]:
    """What lies in a folder, or what of it is asked about."""
    if only is not None:
        return only
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _numbered(folder: Path, only: Only) -> dict[int, Path]:
    """The folders in a folder that are called by a number; of those asked about the ones that they lie in."""
    paths = _children(folder) if only is None else [folder / path.relative_to(folder).parts[0] for path in only]
    return {number: path for path in paths if (number := row_id(path.name)) is not None}


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


def _uuid(path: Path) -> UUID | None:
    try:
        return UUID(path.name.strip(".").partition(".")[0])
    except ValueError:
        return None  # not named by us


# --- The looks --------------------------------------------------------------------------------------------------------


def _models(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    """Folders of models that have no row; `.UUID.part` is one that is being made."""
    if not LanguageModel.objects.exists():
        return  # another data base, more likely than a home whose models were all deleted
    folders = {path: uuid for path in _children(home / "models", only) if (uuid := _uuid(path)) is not None}
    rows = LanguageModel.objects.select_related("job", "run__job").in_bulk(list(set(folders.values())))
    for path, uuid in folders.items():
        row = rows.get(uuid)
        maker = None if row is None else row.job or (row.run.job if row.run else None)
        if row is None:
            yield from _old(home, path, now, "model", "no model is listed under it")
        elif path.name.startswith(".") and (maker is None or (maker.has_ended and not _lives(home, maker.pk))):
            yield from _old(home, path, now, "model", "left half-made by a job that has ended")


def _datasets(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    known = set(Dataset.objects.values_list("sha256", flat=True))
    for path in _children(home / "datasets", only) if known else ():
        if len(path.name) == 64 and path.name not in known:
            yield from _old(home, path, now, "dataset", "no dataset is listed under it")


def _runs(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    if not Run.objects.exists():
        return
    folders = _numbered(home / "runs", only)
    rows = Run.objects.select_related("job").only("job__status").in_bulk(list(folders))
    for number, path in folders.items():
        if number not in rows:
            yield from _old(home, path, now, "run", "its run is deleted")
            continue
        job = rows[number].job
        if job.status in (Status.RUNNING, Status.PENDING) or _lives(home, job.pk):
            continue
        halves = [*path.glob("checkpoints/.step-*.part"), *path.glob("checkpoints/.step-*.gone")]
        for half in sorted(halves):
            yield from _old(home, half, now, "run", "a checkpoint left half-written or half-removed")


def _jobs(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    if not Job.objects.exists():
        return
    folders = _numbered(home / "jobs", only)
    known = set(Job.objects.filter(pk__in=list(folders)).values_list("pk", flat=True))
    for number, path in folders.items():
        if number not in known and not _lives(home, number):
            yield from _old(home, path, now, "job", "its job is deleted")


def _uploads(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    known = {str(pk) for pk in Upload.objects.values_list("pk", flat=True)}
    for path in _children(home / "tmp" / "uploads", only):
        why = "parts of an upload that nobody went on with" if path.name in known else "its upload was given up"
        yield from _old(home, path, now, "upload", why)


def _temporary(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    if Job.objects.filter(kind=Kind.BACKUP, status=Status.RUNNING).exists():
        return  # what it works on lies there
    for path in _children(home / "tmp", only):
        if path.name not in {"uploads", "inbox"}:
            yield from _old(home, path, now, "tmp", "left by a process that ended early")


def _inbox(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    """What the inbox could not use, and what stuck half-copied in it."""
    keep_seconds = settings.get("clean.rejected_days") * DAY
    rejected = home / "inbox" / inbox_files.REJECTED
    folders = [home / "inbox" / name for name in inbox_files.FOLDERS]
    for path in only if only is not None else [path for folder in (rejected, *folders) for path in _children(folder)]:
        if path.parent == rejected:
            if _rejected_at(path) <= now - keep_seconds:
                yield from _old(home, path, now, "inbox", "rejected by the inbox", age_seconds=keep_seconds)
        elif path.is_file() and inbox_files.is_unfinished(path.name):
            yield from _old(home, path, now, "inbox", "never copied to its end", age_seconds=keep_seconds)


def _rejected_at(path: Path) -> float:
    """When a file, or what lies beside it, was rejected: then its reason was written. Its own time may be old."""
    for ending in (inbox_files.REASON, inbox_files.SETTINGS, ""):
        reason = path.with_name(f"{path.name.removesuffix(ending)}{inbox_files.REASON}")
        if path.name.endswith(ending) and reason.is_file():
            return reason.stat().st_mtime
    return 0.0


def _logs(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    """Logs of attempts that another one followed: they are compressed, not taken away."""
    ended = Attempt.objects.filter(ended_at__isnull=False, job__attempt_count__gt=1).select_related("job")
    if only is not None:
        ended = ended.filter(job_id__in=list(_numbered(home / "jobs", only)))
    days = settings.get("clean.archive_logs_days")
    for attempt in ended.order_by("job_id", "number"):
        path = home / "jobs" / str(attempt.job_id) / "attempts" / str(attempt.number) / "log.txt"
        if attempt.number < attempt.job.attempt_count and path.is_file() and not _is_locked(path.parent):
            why = "of an attempt that another followed: compressed"
            yield from _old(home, path, now, "log", why, age_seconds=days * DAY)


def _marks(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    """Marks on checkpoints by models that are deleted, evaluations that are over and snapshots that were cut off."""
    if Job.objects.filter(kind=Kind.BACKUP, status=Status.RUNNING).exists():
        return
    known = {str(uuid) for uuid in LanguageModel.objects.values_list("uuid", flat=True)}
    asked = Evaluation.objects.exclude(job__status__in=ENDED)
    known |= {f"{checkpoints.EVALUATION}{number}" for number in asked.values_list("pk", flat=True)}
    for path in only if only is not None else sorted(home.glob("runs/*/checkpoints/step-*/keep.*")):
        name = path.name.removeprefix("keep.")
        if name != "pin" and name not in known:
            yield from _old(home, path, now, "mark", "keeps a checkpoint for something that is gone")


def _cache(home: Path, now: float, only: Only) -> Iterator[Leftover]:
    """Downloads that were broken off; whole ones stay, since other installations use them too."""
    base = os.environ.get("PILOTHOUSE_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for path in _children(Path(base) / "pilothouse" / "wheels", only):
        if path.name.startswith("."):
            yield from _old(home, path, now, "cache", "a download that was broken off")


LOOKS: dict[str, Look] = {
    "model": _models, "dataset": _datasets, "run": _runs, "job": _jobs, "upload": _uploads, "tmp": _temporary,
    "inbox": _inbox, "log": _logs, "mark": _marks, "cache": _cache,
}  # fmt: skip
