"""What a job asks of the hosts. Runs in the dispatcher's thread, and where a page explains why a job waits.

Two jobs that ask for the same wait for the same: the queue is decided by asks, not job by job.
"""

from dataclasses import dataclass
from typing import Any

from controlplane import gpu_room
from controlplane.kinds.registry import kind_of
from controlplane.models import Host, Job, Run
from controlplane.services import locality
from controlplane.services.locality import Wanted


@dataclass(frozen=True)
class Ask:
    """`gpus` on each of `hosts` hosts, each GPU with `needed_bytes` free.

    `host`: the only one that will do ("": any). `last_host`: where it ran before; it waits until that one answers.
    `turn`: of the jobs with the same one (not empty) a single one runs at a time. `wanted`: the files that it reads.
    `in_library`: it runs only where the library lies.
    """

    kind: str
    lane: str
    gpus: int = 0
    hosts: int = 1
    needed_bytes: int = 0
    labels: tuple[str, ...] = ()
    host: str = ""
    last_host: str = ""
    shares_processor: bool = False
    turn: str = ""
    wanted: tuple[Wanted, ...] = ()
    in_library: bool = False


def of(job: Job) -> Ask:
    """What this job asks for; a job from `jobs.queue()` brings along what is looked at."""
    kind = kind_of(job)
    gpus, environment = kind.gpus_wanted(job), kind.environment(job)
    run: Run | None = getattr(job, "run", None)
    chain = run.chain_id if run is not None and job.attempt_count == 0 else None
    return Ask(
        kind=job.kind, lane=kind.lane, gpus=gpus, hosts=int(environment.get("num_nodes") or 1),
        needed_bytes=gpu_room.needed_bytes(job, gpus * int(environment.get("num_nodes") or 1)),
        labels=tuple(environment.get("labels") or ()), host=_host_named(job, environment),
        last_host=job.host.name if job.host is not None else "",
        shares_processor=kind.may_share_processor(job),
        turn=f"chain {chain}" if chain else "", wanted=locality.wanted_by(job),
        in_library=kind.in_library,
    )  # fmt: skip


def _host_named(job: Job, environment: dict[str, Any]) -> str:
    named: Host | None = job.host if job.is_pinned else None
    return named.name if named is not None else str(environment.get("host") or "")
