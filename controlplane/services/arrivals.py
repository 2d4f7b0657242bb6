"""What comes home from hosts that are apart from the library: checkpoints as they are written, models, rows, shards.

Runs in the dispatcher's threads. Events are stored at once; what they tell of is registered when its files are here.
"""

from collections.abc import Sequence
from functools import partial

from django.db import transaction

from controlplane.live.announce import publish
from controlplane.models import Attempt, Checkpoint, Host, Job, Run, Transfer
from controlplane.models.jobs import Desired, Status
from controlplane.models.transfers import Direction, TransferState
from controlplane.services import artefacts, checkpoints, evaluations_following, jobs, run_facts, transfers
from controlplane.services.artefacts import Need

COMING_HOME = "coming home"
"""The phase of a job whose process has ended and whose results are on their way."""

LOST = {"fix": "Run it again, or bring its host back and try again."}


def connect() -> None:
    """Hears of what has come. Called once, when the app is ready."""
    transfers.came_home.connect(_came_home, dispatch_uid="arrivals.came_home")


# --- The end of a job -------------------------------------------------------------------------------------------------


def awaited(attempt: Attempt, made: Sequence[Need]) -> bool:
    """Begins to bring home what an attempt that has ended well has made. False: nothing has to come.

    Its GPUs are free from now on. Inside the transaction that ends the attempt.
    """
    host = attempt.host
    if attempt.result is None or artefacts.is_library(host):
        return False
    apart = artefacts.is_apart(host)
    coming = [need for need in made if apart or need.item.kind == "results"]
    if not coming:
        return False
    rows = [transfers.ask(host, need, Direction.HOME) for need in coming]
    Attempt.objects.filter(pk=attempt.pk).update(awaits=[row.pk for row in rows])
    Job.objects.filter(pk=attempt.job_id).update(gpus=[])
    jobs.set_phase(attempt.job_id, COMING_HOME)
    return True


def claim_end(attempt: Attempt) -> bool:
    """Whether the attempt still waits for its results; it doesn't from now on."""
    if not Attempt.objects.filter(pk=attempt.pk).exclude(awaits=[]).update(awaits=[]):
        return False
    Job.objects.filter(pk=attempt.job_id).update(progress=None)
    return True


def coming() -> list[tuple[Attempt, list[Transfer]]]:
    """Every attempt whose results are on their way, with these transfers."""
    rows = Attempt.objects.exclude(awaits=[]).select_related("job", "host")
    return [(row, list(Transfer.objects.filter(pk__in=row.awaits).select_related("host"))) for row in rows]


def show(attempt: Attempt, rows: Sequence[Transfer]) -> None:
    """Shows on the job how far its results have come."""
    progress = {
        "done": sum(row.bytes_done for row in rows), "total": sum(row.bytes_total or 0 for row in rows) or None,
        "unit": "bytes", "note": "; ".join(transfers.doing(row) for row in rows if row.is_live)[:500],
    }  # fmt: skip
    with transaction.atomic():
        live = Job.objects.filter(pk=attempt.job_id, status=Status.RUNNING)
        if live.exclude(progress=progress).update(progress=progress):
            publish("jobs", "progress", {"id": attempt.job_id, "progress": progress})


def fault(attempt: Attempt, rows: Sequence[Transfer]) -> dict[str, str] | None:
    """Why the results won't come, or None while they may."""
    if attempt.job.desired == Desired.CANCEL:
        for row in rows:
            transfers.drop(row, f"job {attempt.job_id} was cancelled")
        return {"code": "cancelled", "message": "It was cancelled.", "fix": ""}
    ended = {TransferState.FAILED, TransferState.CANCELLED}
    bad = next((row for row in rows if row.state in ended), None)
    if bad is None:
        return None
    message = f"{bad.title} didn't come home from {attempt.host.name}: {bad.fault}"
    return {"code": "results_lost", "message": message, "fix": bad.fix or LOST["fix"]}


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def checkpoint_written(run: Run, row: Checkpoint, host: Host) -> bool:
    """A checkpoint was written on a host: whether it has to come home first. Inside the ingest transaction."""
    if not artefacts.is_apart(host):
        return False
    need = artefacts.checkpoint_need(run.pk, row.step)
    older = transfers.latest(host, need, Direction.HOME)
    if older is not None:  # the step was reached once more: what is under way is not this one
        transfers.drop(older, "another checkpoint was written in its place")
    Checkpoint.objects.filter(pk=row.pk).update(coming_from=host)
    transfers.ask(host, need, Direction.HOME)
    return True


def checkpoint_gone(run: Run, step: int, host: Host) -> bool:
    """Retention on a host took a checkpoint away: whether the library keeps it all the same. Inside the ingest
    transaction.

    The host knows nothing of the marks here. What nobody has marked goes here too, once the transaction is over.
    """
    if not artefacts.is_apart(host):
        return False
    row = Checkpoint.objects.select_related("run").filter(run=run, step=step).first()
    transfer = transfers.latest(host, artefacts.checkpoint_need(run.pk, step), Direction.HOME)
    if row is None or row.coming_from_id is not None:
        if transfer is not None:
            transfers.drop(transfer, "retention has taken it away")
        return False
    if checkpoints.is_kept(row):
        return True
    transaction.on_commit(partial(checkpoints.release, row))
    return False


def gone_back(run: Run, step: int, host: Host) -> None:
    """A run on this host goes on from a step: what lies beyond isn't its any more. Inside the ingest transaction."""
    for row in run.checkpoints.filter(step__gt=step, gone_at=None).select_related("run", "coming_from"):
        if row.coming_from is not None:
            transfer = transfers.latest(row.coming_from, artefacts.checkpoint_need(run.pk, row.step), Direction.HOME)
            if transfer is not None:
                transfers.drop(transfer, f"the run has gone back to step {step}")
        elif artefacts.is_apart(host):
            transaction.on_commit(partial(checkpoints.release, row))


def _came_home(transfer: Transfer, **_more: object) -> None:
    if transfer.item_kind != "checkpoint":
        return
    run_id, _, step = transfer.item_id.partition("/")
    rows = Checkpoint.objects.filter(run_id=run_id, step=step, coming_from=transfer.host, gone_at=None)
    if not rows.update(coming_from=None):
        return
    row = Checkpoint.objects.select_related("run", "run__job").get(run_id=run_id, step=step)
    publish(f"run:{run_id}", "checkpoint", run_facts.checkpoint(row, run_facts.best_step(row.run)))
    evaluations_following.checkpoint_came(row.run, row.step)


def waits_for_checkpoint(run: Run) -> str | None:
    """Why a run that goes on waits: its last checkpoint is on its way, from a host that answers."""
    last = run.checkpoints.filter(gone_at=None).select_related("coming_from").order_by("-step").first()
    if last is None or last.coming_from is None or not last.coming_from.is_online:
        return None
    transfer = transfers.latest(last.coming_from, artefacts.checkpoint_need(run.pk, last.step), Direction.HOME)
    if transfer is None or not transfer.is_live:
        return None
    return f"waits until its last checkpoint is home: {transfers.sentence(transfer)}"[:250]
