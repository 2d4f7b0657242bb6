"""Event files become rows. Runs in the dispatcher's threads.

A batch is stored with its offset in one transaction, by compare-and-set on the attempt's offset: one that comes twice
is stored once. What an attempt's end means for its job is decided here too, once all its events are read.
"""

import logging
import signal
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.fleet.protocol import AttemptNews, ExitRecord
from controlplane.kinds.registry import kind_of
from controlplane.live.announce import publish
from controlplane.models import Attempt, Job
from controlplane.models.jobs import Desired, Status
from controlplane.services import arrivals, jobs, members, staging
from monitoring import events as ev
from monitoring.events import EXIT_PAUSED, Event, MalformedEventError, decode_event

log = logging.getLogger(__name__)
BACK_OFF_SECONDS = (2, 10, 60)
LONG_LIFE_SECONDS = 1800
NEARLY_ALL = 0.8
"""Of the memory there is: a process that held so much and was killed ran out of it, whatever the kernel counts."""


def store(news: AttemptNews) -> bool:
    """Stores one attempt's news. Returns whether anything changed."""
    changed = False
    if news["lines"]:
        changed = _store_batch(news)
    if news["state"] in ("exited", "lost") and news["drained"]:
        changed = _end(news) or changed
    return changed


def _store_batch(news: AttemptNews) -> bool:
    events = _decoded(news)
    with transaction.atomic():
        attempt = _attempt(news)
        if attempt is None:
            return False
        claimed = Attempt.objects.filter(pk=attempt.pk, offset=news["offset"], ended_at=None).update(
            offset=news["next_offset"], last_seq=max([attempt.last_seq, *(event.seq for event in events)])
        )
        if not claimed:
            return False
        fresh = [event for event in events if event.seq > attempt.last_seq]
        job = attempt.job
        _common(job, attempt, fresh)
        kind_of(job).on_events(job, attempt, fresh)
    return True


def _attempt(news: AttemptNews) -> Attempt | None:
    rows = Attempt.objects.select_related("job", "job__host")
    return rows.filter(job_id=news["job_id"], number=news["attempt"]).first()


def _decoded(news: AttemptNews) -> list[Event]:
    events = []
    for line in news["lines"].split("\n"):  # splitlines would break at U+2028 inside a text
        if not line:
            continue
        try:
            events.append(decode_event(line))
        except MalformedEventError as error:
            log.warning("job %s attempt %s: %s: %.200s", news["job_id"], news["attempt"], error, line)
    return events


def _common(job: Job, attempt: Attempt, events: list[Event]) -> None:
    """What every kind's events mean: phase, progress, log lines, and how it says that it ends."""
    lines: list[dict[str, Any]] = []
    progress: dict[str, Any] | None = None
    for event in events:
        match event.body:
            case ev.Started():
                jobs.set_phase(job.pk, "launching")
            case ev.Phase(name=name):
                jobs.set_phase(job.pk, name)
            case ev.Progress(done=done, total=total, unit=unit, note=note):
                progress = {"done": done, "total": total, "unit": unit, "note": note}
            case ev.Log(level=level, text=text):
                lines.append({"time": event.time, "level": level, "text": text})
            case ev.Result(values=values):
                Attempt.objects.filter(pk=attempt.pk).update(result=values)
            case ev.Error(code=code, message=message, fix=fix, needed_bytes=needed_bytes):
                error: dict[str, Any] = {"code": code, "message": message, "fix": fix}
                if needed_bytes is not None:
                    error["needed_bytes"] = needed_bytes
                Attempt.objects.filter(pk=attempt.pk).update(error=error)
                lines.append({"time": event.time, "level": "error", "text": f"{message} {fix}".strip()})
            case _:
                pass
    if progress is not None:
        Job.objects.filter(pk=job.pk).update(progress=progress)
        publish("jobs", "progress", {"id": job.pk, "progress": progress})
    run = getattr(job, "run", None)
    if lines and run is not None:
        publish(f"run:{run.pk}", "log", {"lines": lines})


def _end(news: AttemptNews) -> bool:
    """The attempt's process is gone and all that it wrote is stored: what becomes of the job?"""
    with transaction.atomic():
        attempt = _attempt(news)
        if attempt is None or attempt.offset != news["next_offset"]:
            return False
        ended = Attempt.objects.filter(pk=attempt.pk, ended_at=None)
        if not ended.update(ended_at=timezone.now(), exit=news["exit"]):
            return False
        attempt.refresh_from_db()
        job = jobs.get(attempt.job_id)
        if job.status != Status.RUNNING or job.attempt_count != attempt.number:
            return True
        if not arrivals.awaited(attempt, kind_of(job).makes(job, attempt)):
            _conclude(job, attempt, news["exit"])
    return True


def conclude_arrived(attempt: Attempt) -> None:
    """All that the attempt has made is in the library: its job is done."""
    with transaction.atomic():
        job = jobs.get(attempt.job_id)
        if not arrivals.claim_end(attempt) or job.status != Status.RUNNING or job.attempt_count != attempt.number:
            return
        if job.desired == Desired.CANCEL:
            _conclude_cancelled(job)
        else:
            _conclude(job, attempt, attempt.exit)


def conclude_missing(attempt: Attempt, error: dict[str, str]) -> None:
    """What the attempt has made can't be brought: its job was cancelled meanwhile, or fails."""
    with transaction.atomic():
        job = jobs.get(attempt.job_id)
        if not arrivals.claim_end(attempt) or job.status != Status.RUNNING or job.attempt_count != attempt.number:
            return
        if job.desired == Desired.CANCEL:
            _conclude_cancelled(job)
            return
        Attempt.objects.filter(pk=attempt.pk).update(error=error)
        _tell_noun(jobs.transition(job.pk, Status.FAILED, reason=error["message"], error=error), error)


def _conclude(job: Job, attempt: Attempt, ended: ExitRecord | None) -> None:
    kind = kind_of(job)
    told = job.desired != Desired.RUN
    if kind.lasting and not told and attempt.result is not None:
        jobs.transition(job.pk, Status.PENDING, reason="interrupted: its host went down", not_before=None)
    elif attempt.result is not None:
        jobs.transition(job.pk, Status.DONE, reason="result", result=attempt.result, error=None)
        kind.on_done(job, attempt, attempt.result)
    elif job.desired == Desired.CANCEL:
        _conclude_cancelled(job)
    elif attempt.error is not None and kind.is_held(attempt.error):
        jobs.transition(job.pk, Status.PAUSED, reason=attempt.error["message"], error=attempt.error)
    elif ended is not None and (ended["code"] == EXIT_PAUSED or ended["signal"] == signal.SIGTERM):
        _conclude_paused(job)
    else:
        _conclude_failed(job, attempt, ended)


def _conclude_cancelled(job: Job) -> None:
    jobs.transition(job.pk, Status.CANCELLED, reason="cancelled")
    kind_of(job).on_failed(job, {"code": "cancelled", "message": "It was cancelled.", "fix": ""})


def _conclude_paused(job: Job) -> None:
    """It was told to make room, by somebody or because its host goes down; a run has left a checkpoint."""
    if job.desired == Desired.PAUSE:
        jobs.transition(job.pk, Status.PAUSED, reason="paused with a checkpoint")
    elif kind_of(job).lasting and job.desired == Desired.STOP:
        jobs.transition(job.pk, Status.CANCELLED, reason="stopped")
        kind_of(job).on_failed(job, {"code": "cancelled", "message": "It was stopped.", "fix": ""})
    else:
        jobs.transition(job.pk, Status.PENDING, reason="interrupted: its host went down", not_before=None)


def _conclude_failed(job: Job, attempt: Attempt, ended: ExitRecord | None) -> None:
    kind = kind_of(job)
    told = members.fault_of(attempt, attempt.error)
    error = told or explain(ended)
    said = ev.Error(**told) if told else None
    # One that worked for long is no crash loop: what happened weeks ago doesn't count against it.
    failures = 1 if lived_seconds(attempt) > LONG_LIFE_SECONDS else job.failures + 1
    if kind.may_retry(said) and failures < job.max_failures and job.desired == Desired.RUN:
        pause = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS)) - 1]
        jobs.transition(
            job.pk, Status.PENDING, reason=error["message"], failures=failures, error=error,
            not_before=timezone.now() + timedelta(seconds=pause),
        )  # fmt: skip
        return
    jobs.transition(job.pk, Status.FAILED, reason=error["message"], failures=failures, error=error)
    kind.on_failed(job, error)


def lived_seconds(attempt: Attempt) -> float:
    """How long an attempt that has ended was there."""
    return ((attempt.ended_at or timezone.now()) - attempt.created_at).total_seconds()


def explain(ended: ExitRecord | None) -> dict[str, str]:
    """Why a process that said nothing is gone, as far as its end tells."""
    if ended is None:
        return {
            "code": "lost", "message": "The process and its supervisor vanished (a reboot, or both were killed).",
            "fix": "It is started again from its last checkpoint.",
        }  # fmt: skip
    if ended["signal"] == signal.SIGKILL:
        return _explain_kill(ended)
    if ended["signal"]:
        name = signal.Signals(ended["signal"]).name
        return {"code": "signal", "message": f"The process ended by {name}.", "fix": "See the job's log."}
    return {"code": "exit", "message": f"The process ended with code {ended['code']}.", "fix": "See the job's log."}


def _explain_kill(ended: ExitRecord) -> dict[str, str]:
    """By whom a process was killed that Pilothouse didn't kill, by what it held and what the kernel counts."""
    held, limit = ended["max_rss_bytes"], ended.get("memory_limit_bytes")
    size = f"it held {held / 1e9:.1f} GB" + (f" of {limit / 1e9:.1f} GB" if limit else "")
    fix = (
        "Lower per_device_train_batch_size and raise gradient_accumulation_steps as much, lower max_length, turn on "
        "gradient_checkpointing, or leave more of the host's memory free; the run goes on from its last checkpoint."
    )
    if ended.get("oom_kills"):
        return {
            "code": "host_out_of_memory", "message": f"The kernel ended the process for want of memory: {size}.",
            "fix": fix,
        }  # fmt: skip
    if limit and held >= NEARLY_ALL * limit:
        message = f"The process was killed (SIGKILL), most likely by the kernel for want of memory: {size}."
        return {"code": "host_out_of_memory", "message": message, "fix": fix}
    return {
        "code": "killed", "message": f"The process was killed (SIGKILL) by somebody else than Pilothouse; {size}.",
        "fix": "Ask who ended it; it can be started again and goes on from its last checkpoint.",
    }  # fmt: skip


def lose(attempt: Attempt, message: str) -> None:
    """Gives up an attempt whose host is lost; its job goes on elsewhere from its last checkpoint.

    Nothing of this attempt is stored from now on, and the poll ends its process should the host return with it.
    """
    error = {"code": "host_lost", "message": message, "fix": "It goes on elsewhere from its last checkpoint."}
    with transaction.atomic():
        if Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(ended_at=timezone.now(), error=error):
            jobs.transition(
                attempt.job_id, Status.PENDING, reason=message, host=None, gpus=[], error=error, not_before=None
            )


def drop(attempt: Attempt) -> None:
    """An attempt that is not to be launched any more."""
    Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(ended_at=timezone.now())


def lose_results(attempt: Attempt, message: str) -> None:
    """Gives up an attempt that has ended on a host which is lost with what it made: its job goes on elsewhere."""
    error = {"code": "host_lost", "message": message, "fix": "It goes on elsewhere from its last checkpoint."}
    with transaction.atomic():
        if arrivals.claim_end(attempt):
            Attempt.objects.filter(pk=attempt.pk).update(error=error)
            jobs.transition(
                attempt.job_id, Status.PENDING, reason=message, host=None, gpus=[], error=error, not_before=None
            )


def call_off(attempt: Attempt) -> None:
    """A job whose owner wanted something else while its files were being copied."""
    with transaction.atomic():
        drop(attempt)
        job = jobs.get(attempt.job_id)
        if job.desired == Desired.PAUSE:
            jobs.transition(job.pk, Status.PAUSED, reason="paused while its files were copied", progress=None)
        else:
            _conclude_cancelled(job)
        staging.release(attempt, f"job {job.pk}, which needed it, was called off")


def give_up(news: AttemptNews, message: str) -> None:
    """A job whose events can't be stored fails; the poll ends its process, which has no right to run any more."""
    error = {"code": "internal", "message": message, "fix": "The web server's log has more."}
    with transaction.atomic():
        attempt = _attempt(news)
        if attempt is None:
            return
        Attempt.objects.filter(pk=attempt.pk).update(ended_at=timezone.now(), error=error)
        if attempt.job.status == Status.RUNNING and attempt.job.attempt_count == attempt.number:
            _tell_noun(jobs.transition(attempt.job_id, Status.FAILED, reason=message, error=error), error)


def _tell_noun(job: Job, error: dict[str, str]) -> None:
    """Tells the kind that its job has failed; one whose own rows are broken too can't keep the job from failing."""
    try:
        with transaction.atomic():
            kind_of(job).on_failed(job, error)
    except Exception:  # the dispatcher must live, and the job is over in any case
        log.exception("job %s: its kind could not be told that it has failed", job.pk)


def fail_before_launch(attempt: Attempt, code: str, message: str, fix: str) -> None:
    """A job that couldn't be launched, for a reason that won't go away by itself.

    Where the job has gone on without this attempt meanwhile (its host was lost), only the attempt ends.
    """
    error = {"code": code, "message": message, "fix": fix}
    with transaction.atomic():
        found = jobs.get(attempt.job_id)
        if found.status != Status.RUNNING or found.attempt_count != attempt.number:
            drop(attempt)
            return
        job = jobs.transition(attempt.job_id, Status.FAILED, reason=message, error=error)
        Attempt.objects.filter(job_id=attempt.job_id, ended_at=None).update(ended_at=timezone.now(), error=error)
        _tell_noun(job, error)
