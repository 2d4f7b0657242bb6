"""GPU memory that no live job owns: who holds it, and ending them. Runs in the web process."""

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from controlplane.errors import ConflictError, FieldFault, InvalidInputError, UnavailableError
from controlplane.fleet.protocol import AgentRefusedError, EndAnswer, GpuProcess, HostUnreachableError
from controlplane.fleet.registry import carrier
from controlplane.live.announce import publish
from controlplane.models import Gpu, Host
from controlplane.models.access import Actor, Role
from controlplane.services import hosts
from controlplane.services.access import audit


@dataclass(frozen=True)
class Ownerless:
    """A process that holds memory of a GPU and that no live job owns.

    `pid`, `start_ticks` and `boot_id` name it for good; without `start_ticks` (it is in another container, say) it
    can't be ended from here. `is_ours`: this home's agent has started it, for a job that is gone.
    """

    host: str
    gpu_index: int
    gpu_uuid: str
    gpu_name: str
    pid: int
    start_ticks: int | None
    boot_id: str
    command: str
    user: str | None
    memory_used_bytes: int | None
    started_at: float | None
    age_seconds: float | None
    is_ours: bool


@dataclass(frozen=True)
class Outcome:
    """What became of an end. `ended` False: `reason` says why it isn't there to be ended, or lives on."""

    host: str
    pid: int
    command: str
    ended: bool
    reason: str | None


def list_ownerless(host: str | None = None) -> list[Ownerless]:
    """Every process of a host (all hosts without one) that holds GPU memory without a live job, the largest first.

    What the agents saw last; a host that doesn't answer is left out, for nobody knows what runs there now. Raises
    NotFoundError for an unknown host.
    """
    rows = [hosts.get(host)] if host is not None else hosts.list_hosts()
    found = [
        ownerless(row, gpu, process)
        for row in rows
        if row.is_online
        for gpu in hosts.gpus_of(row)
        for process in gpu.reading.get("processes") or []
        if process["job_id"] is None
    ]
    return sorted(found, key=lambda process: -(process.memory_used_bytes or 0))


def ownerless(host: Host, gpu: Gpu, process: GpuProcess) -> Ownerless:
    """One process of a reading. Its age is counted by the host's clock."""
    started, now = process["started_at"], host.reading.get("time")
    return Ownerless(
        host=host.name, gpu_index=gpu.index, gpu_uuid=gpu.uuid, gpu_name=gpu.name, pid=process["pid"],
        start_ticks=process["start_ticks"], boot_id=process["boot_id"], command=process["command"],
        user=process["user"], memory_used_bytes=process["memory_used_bytes"], started_at=started,
        age_seconds=None if started is None or now is None else max(0.0, now - started), is_ours=process["is_ours"],
    )  # fmt: skip


def end(actor: Actor, host: str, pid: int, start_ticks: int, boot_id: str, *, others: bool = False) -> Outcome:
    """Ends a process that holds GPU memory without a live job: SIGTERM, then SIGKILL.

    `others` is the second confirmation: it is needed for what Pilothouse hasn't started. Raises ForbiddenError (admins
    alone), NotFoundError, InvalidInputError for a pid that is never ended, ConflictError when the agent refuses (the
    pid is another process's by now, a live job's, not on a GPU, not ours, not permitted), UnavailableError.
    """
    actor.require(Role.ADMIN)
    row = hosts.get(host)
    if pid <= 1:
        raise InvalidInputError(f"Process {pid} is never ended.", (FieldFault("pid", "2 or larger"),))
    seen = _seen(row, pid)
    facts = {"command": seen["command"], "user": seen["user"], "is_ours": seen["is_ours"]} if seen else {}
    target = f"process {pid} on {row.name}"
    try:
        answer = carrier(row).end_process(pid, start_ticks, boot_id, others=others)
    except AgentRefusedError as error:
        with transaction.atomic():
            audit(actor, "gpu_process.end", target, ended=False, refused=error.code, others=others, **facts)
        raise _refusal(error) from error
    except HostUnreachableError as error:
        # The agent may have been asked, and have ended it, before it fell silent.
        with transaction.atomic():
            audit(actor, "gpu_process.end", target, ended=None, reason=str(error), others=others, **facts)
        message = f"{row.name} doesn't answer, so it isn't known whether process {pid} has ended: {error}"
        raise UnavailableError(message) from error
    _note(actor, row, target, answer, {**facts, "others": others})
    return Outcome(row.name, pid, seen["command"] if seen else "", answer["ended"], answer["reason"])


def _seen(host: Host, pid: int) -> GpuProcess | None:
    """The process as the last reading has it: for the audit line alone, the agent looks for itself."""
    readings: list[dict[str, Any]] = host.reading.get("gpus", [])
    return next((item for gpu in readings for item in gpu["processes"] if item["pid"] == pid), None)


def _note(actor: Actor, host: Host, target: str, answer: EndAnswer, facts: dict[str, Any]) -> None:
    with transaction.atomic():
        audit(actor, "gpu_process.end", target, ended=answer["ended"], reason=answer["reason"], **facts)
        publish("hosts", "status", {"host": host.name, "process": target, "ended": answer["ended"]})


def _refusal(error: AgentRefusedError) -> ConflictError | InvalidInputError:
    sentence = f"{error.message} {error.fix}".strip()
    return InvalidInputError(sentence) if error.code == "bad_call" else ConflictError(sentence)
