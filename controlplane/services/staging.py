"""Before a launch: what the job reads must lie on its host. Runs in the dispatcher's threads.

A job that was given a place keeps it while its files are copied, as it does while its process starts. Nothing here
waits: a launch that isn't ready is asked for again at the next tick.
"""

from django.db import transaction

from controlplane.fleet.files import library
from controlplane.fleet.protocol import AgentRefusedError, Carrier, Item
from controlplane.live.announce import publish
from controlplane.models import Attempt, Checkpoint, Host, Job, Transfer
from controlplane.models.jobs import Desired, Status
from controlplane.models.transfers import Direction, TransferState
from controlplane.services import artefacts, copies, jobs, transfers
from controlplane.services.artefacts import Need, home
from monitoring.events import JobSpec

COPYING = "copying"
"""The phase of a job whose files are on their way."""

COMPARING_SECONDS = 10.0


def staged(attempt: Attempt, spec: JobSpec, reach: Carrier) -> JobSpec | None:
    """The spec as its host is to have it, or None while something that it reads is on its way.

    Raises AgentRefusedError where a file can't be brought, HostUnreachableError.
    """
    host = attempt.host
    if artefacts.is_library(host):
        return spec
    if not artefacts.is_apart(host):
        return artefacts.for_host(spec, host)
    needs = artefacts.needs(spec)
    named = [[need.item.kind, need.item.id] for need in needs]
    if fresh := [one for one in named if one not in attempt.files]:
        Attempt.objects.filter(pk=attempt.pk).update(files=[*attempt.files, *fresh])
    under_way = [row for need in needs if (row := _brought(attempt, need, reach)) is not None]
    if under_way:
        _tell(attempt.job_id, under_way)
        return None
    _tell_ready(attempt.job_id)
    copies.note_use(host, [need.item for need in needs])
    return artefacts.for_host(spec, host)


def is_called_off(job: Job) -> bool:
    """Whether the owner of a job that waits for its files wants something else than that it runs."""
    return job.phase == COPYING and job.desired != Desired.RUN


def release(attempt: Attempt, why: str) -> None:
    """Ends the transfers of an attempt that won't start, but for those that another one needs."""
    for row in transfers.live().filter(host=attempt.host, direction=Direction.OUT):
        if [row.item_kind, row.item_id] in attempt.files and not transfers.waiting_for(row):
            transfers.drop(row, why)


def _brought(attempt: Attempt, need: Need, reach: Carrier) -> Transfer | None:
    """The transfer that is under way; None where the item lies on the host already."""
    host = attempt.host
    last = transfers.latest(host, need, Direction.OUT)
    if last is not None and last.is_live:
        return last
    if last is not None and last.ended_at is not None and last.ended_at >= attempt.created_at:
        if last.state != TransferState.DONE:
            raise AgentRefusedError(last.fault_code or "copy_failed", _failure(last), last.fix)
        return None
    if _lies_there(host, need.item, reach):
        return None
    return transfers.ask(host, need, Direction.OUT)


def _failure(row: Transfer) -> str:
    return f"{row.title} can't be copied to {row.host.name}: {row.fault}"


def _lies_there(host: Host, item: Item, reach: Carrier) -> bool:
    """Whether the host holds what the library holds, or holds it alone. A long comparison is a transfer's work."""
    if _is_its_own(host, item):
        return True
    there = reach.files.list_files(item)
    if there["state"] != "ready":
        return False
    ours = library(home()).list_files(item)
    if ours["state"] != "ready" or ours["files"] != there["files"]:
        return False
    size = sum(entry["bytes"] for entry in there["files"])
    transfers.hold(host, item.kind, item.id, _title(host, item), size)
    return True


def _title(host: Host, item: Item) -> str:
    row = host.copies.filter(item_kind=item.kind, item_id=item.id).first()
    return row.title if row is not None else item.id


def _is_its_own(host: Host, item: Item) -> bool:
    """A checkpoint that has not come home yet lies on the host where it was written."""
    if item.kind != "checkpoint":
        return False
    run, _, step = item.id.partition("/")
    return Checkpoint.objects.filter(run_id=run, step=step, coming_from=host, gone_at=None).exists()


def _tell(job_id: int, rows: list[Transfer]) -> None:
    """Shows on the job what it waits for."""
    done = sum(row.bytes_done for row in rows if not row.is_checking)
    total = sum(row.bytes_total or 0 for row in rows)
    note = "; ".join(transfers.doing(row) for row in rows)
    progress = {"done": done, "total": total or None, "unit": "bytes", "note": note[:500]}
    reason = "; ".join(transfers.sentence(row) for row in rows)[:250]
    with transaction.atomic():
        jobs.set_phase(job_id, COPYING)
        changed = Job.objects.filter(pk=job_id, status=Status.RUNNING).exclude(progress=progress)
        if changed.update(progress=progress, waiting_reason=reason):
            publish("jobs", "progress", {"id": job_id, "progress": progress})


def _tell_ready(job_id: int) -> None:
    """Nothing is on its way any more."""
    with transaction.atomic():
        if Job.objects.filter(pk=job_id, phase=COPYING).update(progress=None, waiting_reason=""):
            jobs.set_phase(job_id, "launching")
