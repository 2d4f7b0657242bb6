"""Event files of TensorBoard become a run. Runs in the web process; the reading in its duty `inner jobs`.

A metric's steps rise here. Where they go back in the files (a restart from an earlier step) what lay from there on
gives way, as it does for a run that resumes. A run whose files can't be read has failed, and has no points.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.live.announce import publish
from controlplane.models import Metric, MetricBlock, MetricChunk, Resumption, Run, Upload
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Kind
from controlplane.services import curves, external_runs, runs, uploads
from controlplane.services.event_files import Scalar, scalars
from controlplane.services.external_points import END_OF_TIME, LAST_STEP
from controlplane.services.job_progress import JobProgress
from controlplane.services.points import Point
from monitoring.files import write_json

FLUSH_POINTS = 100_000
MOST_FILES = 100
MOST_RESTARTS = 100
RESULT = "result.json"
NO_POINTS = (
    "The files hold no scalars: only these become curves, not images, histograms or texts. Choose the files that the "
    "training wrote its losses to."
)


def create(
    actor: Actor, *, upload_ids: Sequence[str], name: str, tags: Iterable[str] = (), group: str = "", notes: str = ""
) -> Run:  # fmt: skip
    """Makes a run of whole uploads; a job reads them. Raises ConflictError where parts are missing."""
    actor.require(Role.USE)
    given = _whole(actor, upload_ids)
    listed = [{"file": str(number), "name": upload.filename} for number, upload in enumerate(given, start=1)]
    with tempfile.TemporaryDirectory(dir=Path(settings.HOME) / "tmp", prefix="run-") as name_of_folder:
        folder = Path(name_of_folder) / "events"
        folder.mkdir()
        for entry, upload in zip(listed, given, strict=True):
            uploads.joined(upload, folder / entry["file"])
        with transaction.atomic():
            run = external_runs.record(
                actor, Kind.IMPORT, name=name, tags=tags, group=group, notes=notes, job_config={"files": listed}
            )
            run.folder.mkdir(parents=True, exist_ok=True)
            folder.rename(_folder(run))  # before the commit: whoever finds the job finds its files
    for upload in given:
        uploads.remove(upload)
    return runs.get(run.pk)


def _whole(actor: Actor, ids: Sequence[str]) -> list[Upload]:
    """The uploads in the order of their files' names, which begin with the time when they were begun."""
    if not 1 <= len(ids) <= MOST_FILES or len(set(ids)) < len(ids):
        raise InvalidInputError(
            f"A run is made of 1 to {MOST_FILES} different files, not of {len(ids)}.",
            (FieldFault("uploads", f"1 to {MOST_FILES}"),),
        )
    found = [uploads.get(actor, upload_id) for upload_id in ids]
    for upload in found:
        uploads.require_whole(upload)
    return sorted(found, key=lambda upload: upload.filename)


def _folder(run: Run) -> Path:
    return run.folder / "events"


# --- Reading, in the duty ---------------------------------------------------------------------------------------------


def read(run: Run) -> dict[str, Any]:
    """Reads the run's files into its curves; returns the job's result. Raises EventFileError, and nothing stays.

    The result is kept beside the files before these go: whoever follows a process that dies in between finds it.
    """
    kept = _folder(run) / RESULT
    if not kept.exists():
        write_json(kept, _read(run))
    for entry in run.job.config["files"]:
        (_folder(run) / entry["file"]).unlink(missing_ok=True)
    result: dict[str, Any] = json.loads(kept.read_text())
    return result


def _read(run: Run) -> dict[str, Any]:
    files = [(_folder(run) / entry["file"], entry["name"]) for entry in run.job.config["files"]]
    progress = JobProgress(run.job_id, sum(path.stat().st_size for path, _ in files))
    _forget(run)
    reading = _Reading(run)
    try:
        for path, name in files:
            for used, found in scalars(path, name):
                reading.take(found)
                progress.add(used, name)
        reading.end()
    except BaseException:
        _forget(run)
        raise
    return reading.result(len(files))


def _forget(run: Run) -> None:
    """Takes every point of a run away: those of a reading that was broken off."""
    with transaction.atomic():
        for rows in (MetricBlock, MetricChunk, Metric, Resumption):
            rows.objects.filter(run=run).delete()
        Run.objects.filter(pk=run.pk).update(last={}, last_step=0, last_time=None)
        publish(f"run:{run.pk}", "reset", {})


class _Tag:
    """One tag on its way: points that aren't stored yet, how far it is, and which of the stored ones stay."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.points: list[Point] = []
        self.last_step = -1
        self.stored_until = -1
        self.keeps_until = -1
        self.restarts = 0


class _Reading:
    """Scalars in the order of the files become points whose steps rise; stored when they are many."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tags: dict[str, _Tag] = {}
        self._held = 0
        self._superseded = 0
        self._restarts: list[tuple[int, float]] = []
        self._times = (float("inf"), float("-inf"))

    def take(self, found: Sequence[Scalar]) -> None:
        """Adds scalars behind those that came before."""
        for tag, step, value, time in found:
            row = self._tags.get(tag)
            if row is None:
                row = self._tags[tag] = _Tag(curves.stored_key(tag))
            if not 0 <= step <= LAST_STEP:
                self._superseded += 1
                continue
            if step <= row.last_step:
                self._go_back(row, step, time)
            row.points.append((step, value, time))
            row.last_step = step
            self._held += 1
        if found:
            times = [scalar.time for scalar in found]
            self._times = min(self._times[0], *times), max(self._times[1], *times)
        if self._held >= FLUSH_POINTS:
            self._flush()

    def _go_back(self, row: _Tag, step: int, time: float) -> None:
        """A tag's points from a step on give way. Tags that go back one after the other tell of one restart."""
        if step < row.last_step:
            if row.restarts == len(self._restarts):
                self._restarts.append((step - 1, time))
            else:
                before, when = self._restarts[-1]
                self._restarts[-1] = min(before, step - 1), when
            row.restarts = len(self._restarts)
        while row.points and row.points[-1][0] >= step:
            row.points.pop()
            self._held -= 1
            self._superseded += 1
        if not row.points:
            row.keeps_until = min(row.keeps_until, step - 1)  # taken away at the next flush, all of them together

    def _flush(self) -> None:
        fresh = {row.key: row.points for row in self._tags.values() if row.points}
        with transaction.atomic():
            for row in self._tags.values():
                if row.keeps_until < row.stored_until:
                    self._superseded += curves.rewind_key(self._run, row.key, row.keeps_until)
            curves.append_all(self._run, fresh)
        for row in self._tags.values():
            row.points = []
            row.stored_until = row.keeps_until = row.last_step
        self._held = 0

    def end(self) -> None:
        """Stores the rest, and what the run came to. Raises InvalidInputError where there was nothing at all."""
        if not self._tags:
            raise InvalidInputError(NO_POINTS)
        self._flush()
        run = self._run
        with transaction.atomic():
            for step, time in self._restarts[-MOST_RESTARTS:]:
                curves.resumed(run, step, time)
            Run.objects.filter(pk=run.pk).update(
                last=curves.last_values(run), last_step=curves.last_step(run), last_time=self._times[1]
            )
            publish(f"run:{run.pk}", "reset", {})

    def result(self, files: int) -> dict[str, Any]:
        """What the job came to."""
        counts = Metric.objects.filter(run=self._run).values_list("count", flat=True)
        began, ended = (
            datetime.fromtimestamp(min(max(0.0, time), END_OF_TIME), UTC).isoformat() for time in self._times
        )
        return {
            "files": files, "metrics": len(counts), "points": sum(counts), "left_out": self._superseded,
            "restarts": len(self._restarts), "began_at": began, "ended_at": ended,
        }  # fmt: skip
